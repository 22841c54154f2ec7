"""The benchmarks' own parts: figures without a clock, limits, tables. Nothing here is timed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import behind, compiling, exact, gpu, limit, measure, muon, programs, rows, steps
from benchmarks.__main__ import GROUPS, main
from benchmarks.rows import Row, Skipped

needs_c = pytest.mark.skipif(limit.compiled()[0] is None, reason=limit.compiled()[1])


@pytest.fixture(autouse=True)
def as_users_have_it() -> Iterator[None]:
    """The peer needs JAX's own rules of promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


COMPILED = """HloModule jit_f, is_scheduled=true

%add.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

%fused_computation (p.1: f32[8,8]) -> f32[8,8] {
  %p.1 = f32[8,8]{1,0} parameter(0)
  %two = f32[] constant(2)
  ROOT %multiply.1 = f32[8,8]{1,0} multiply(%p.1, %p.1)
}

%called (p.2: f32[8,8]) -> (f32[8,8], f32[]) {
  %p.2 = f32[8,8]{1,0} parameter(0)
  %square = f32[8,8]{1,0} fusion(%p.2), kind=kLoop, calls=%fused_computation
  %sum = f32[] reduce(%square, %two), dimensions={0,1}, to_apply=%add.clone
  ROOT %both = (f32[8,8]{1,0}, f32[]) tuple(%square, %sum)
}

ENTRY %main.9 (Arg_0.1: f32[8,8]) -> (f32[8,8], f32[]) {
  %Arg_0.1 = f32[8,8]{1,0} parameter(0)
  %copy.3 = f32[8,8]{1,0} copy(%Arg_0.1)
  %moved = (f32[8,8]{1,0}, f32[8,8]{1,0}, u32[]) copy-start(%copy.3)
  %moved.1 = f32[8,8]{1,0} copy-done(%moved)
  ROOT %call = (f32[8,8]{1,0}, /*index=1*/f32[]) call(%moved.1), to_apply=%called
}
"""


def test_a_program_s_figures_are_read_from_its_text() -> None:
    figures = exact.program_figures(COMPILED)
    assert figures == {"copies": 2, "fusions": 1, "kinds": 1, "kernels": 4, "instructions": 15}


def test_fusions_differ_by_operations_and_the_order_of_operands() -> None:
    body = COMPILED[COMPILED.index("%fused_comp") : COMPILED.index("%called")]
    call = "  %square = f32[8,8]{1,0} fusion(%p.2), kind=kLoop, calls=%fused_computation\n"
    again = body.replace("%", "%again_").replace("%again_fused_computation", "%other")
    text = again + COMPILED.replace(call, call + call.replace("fused_computation", "other"))
    assert exact.kinds_of_kernels(text) == 1
    assert (
        exact.kinds_of_kernels(text.replace("%again_two = f32[] constant(2)", "%again_two = f32[] sqrt(2)"))
        == 2
    )


@pytest.mark.parametrize("name", ["adamw", "adan", "schedule_free_sgd"])
def test_leaves_of_one_shape_share_their_kernels(name: str) -> None:
    """The first leaf of a program may have kernels of its own, but not the first leaf of each shape."""
    kinds = []
    for leaves in (1, 2):
        like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(8, 16), *[(3,)] * leaves]]
        compiled = programs.Program(steps.pair(name)[0], gf.apply_updates, like).compiled
        kinds.append(exact.kinds_of_kernels(compiled.as_text()))
    assert kinds[0] == kinds[1]


def test_figures_of_a_program_that_is_compiled_here() -> None:
    def f(x: Any, y: Any) -> Any:
        return x[::-1] * 2 + 1, y

    compiled = jax.jit(f).lower(jnp.ones(100), jnp.ones(3)).compile()
    figures = exact.program_figures(compiled.as_text())
    assert figures["fusions"] == 1
    assert figures["copies"] == 1  # the second result is an argument that is not donated
    assert figures["kernels"] == 2
    assert exact.scratch(compiled) == 0
    assert exact.nbytes((jnp.ones(100), None, jax.ShapeDtypeStruct((3, 2), jnp.bfloat16))) == 412


def test_an_inner_program_that_is_shared_counts_once() -> None:
    inner = jax.jit(lambda x: jnp.sin(x) * 2)
    once = exact.equations(jax.make_jaxpr(inner)(1.0).jaxpr)
    twice = exact.equations(jax.make_jaxpr(lambda x: inner(inner(x)))(1.0).jaxpr)
    assert (once, twice) == (3, 4)


def test_the_order_changes_with_every_turn() -> None:
    order: list[str] = []
    times = measure.turns([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert "".join(order) == "ababba"
    assert [len(t) for t in times] == [2, 2]
    few = measure.turns([lambda: None], 9, budget=-1.0)
    assert len(few[0]) == measure.FEWEST


def test_a_ratio_is_the_peer_s_time_over_ours() -> None:
    ratio = measure.ratio_of([1.0, 2.0, 4.0, 2.0], [2.0, 6.0, 4.0, 6.0])
    assert ratio == (2.5, 2.0, 3.0, 2.0)


def test_a_limit_is_scaled_to_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "turns", lambda functions, runs, budget: [[6.0], [12.0], [2.0]])
    bound = limit.Limit("copy", lambda: None, 1.5)
    ratios, found = measure.against_limits(lambda: None, [lambda: None], [bound], 1)
    assert ratios[0].ratio == 2
    assert found == {"copy": 2.0}


@needs_c
def test_the_kernels_compute_what_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    g, p, m, v = (rng.random(10_001).astype(np.float32) for _ in range(4))
    params, state = jnp.array(p), gf.adamw(1e-2).init(jnp.array(p))
    tx = gf.adamw(1e-2)
    m[:], v[:] = 0, 0
    for step in (1, 2, 3):
        limit.adamw(g, p, m, v, step, rate=1e-2)
        updates, state = tx.update(jnp.array(g), state, params)
        params = gf.apply_updates(params, updates)
    m_expected = sum(0.1 * 0.9**i for i in range(3)) * g
    np.testing.assert_allclose(m, m_expected, rtol=1e-5)
    np.testing.assert_allclose(p, params, rtol=1e-5, atol=1e-6)
    expected = (g + v) / 2
    limit.stream(g, v)
    np.testing.assert_allclose(v, expected, rtol=1e-6)


@needs_c
def test_a_large_stream_is_scaled() -> None:
    small, large = limit.limits(1200)[0], limit.limits(10 * limit.LARGEST)[0]
    assert small.scale == pytest.approx(1)
    assert large.scale == pytest.approx(10, rel=1e-6)
    assert [x.name for x in limit.limits(1200, 10)] == ["stream", "C adamw"]


def test_without_a_compiler_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "compiled", lambda: (None, "no C compiler"))
    assert limit.limits(1200, 10) == []


def test_a_program_s_bytes_and_figures() -> None:
    like = programs.shapes(3, 100)
    ours, peer = programs.both(gf.adamw(1e-3), optax.adamw(1e-3), like)
    assert 28 * 300 <= ours.moved <= 28 * 300 + 16  # and counts of steps
    figures = programs.compared([ours, peer])
    assert set(figures) == {"scratch", "state", "equations", "copies", "fusions", "kinds", "instructions"}
    assert figures["state"][0] == pytest.approx(2, abs=0.01)
    before = jax.tree.map(np.asarray, ours.start().params)
    updates, _ = ours.tx.update(ours.grads, ours.tx.init(before), before)
    np.testing.assert_allclose(ours()["layer0"], before["layer0"] + updates["layer0"], rtol=1e-6)


def test_an_update_alone_is_in_place() -> None:
    update = programs.Program(gf.adam(1e-3), gf.apply_updates, programs.shapes(2, 100), update_only=True)
    assert update.figures()["copies"] == 0
    before = np.asarray(update.start().grads["layer1"])
    assert np.shape(update()["layer1"]) == before.shape


def test_every_named_optimizer_has_a_row_and_its_arguments() -> None:
    names = steps.named()
    assert {"adam", "sgd", "muon", "schedule_free_adamw", "sophia"} <= set(names)
    assert not {"scale_by_adam", "lbfgs", "adamw_state"} & set(names)
    assert set(steps.MAIN) <= set(names)
    for name in names:
        ours, peer = steps.pair(name)
        assert ours.init
        assert peer is None or peer.init


def test_what_was_behind_is_measured_by_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {name: [rows.Skipped(name, "not here")] for name in behind.GROUPS}
    monkeypatch.setattr(behind, "GROUPS", {name: lambda name=name: iter(made[name]) for name in made})
    behind.main(["--only", "lbfgs,muon"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["lbfgs", "muon"]
    with pytest.raises(SystemExit):
        behind.main(["--only", "matrices"])
    assert "got 'matrices'. There are steps, losses, muon, lbfgs, compile" in capsys.readouterr().err


def test_muon_s_operations() -> None:
    wide = {"w": jax.ShapeDtypeStruct((30, 10), jnp.float32)}
    assert muon.operations(wide, steps=1) == 2 * (10 * 30 * 10 + 10 * 10 * 10 + 10 * 10 * 30)


ROWS: list[Row | Skipped] = [
    Row("adamw", "step", measure.Ratio(2.0, 1.5, 2.5, 0.01), limits={"stream": 1.25}, group="steps"),
    Row("lion", "step", measure.Ratio(0.5, 0.4, 0.6, 2e-6), exact={"copies": (0, 64)}, group="steps"),
    Row("import", "ms", None, 0.12, 110.0, group="import"),
    Row("new", "step", limits={"stream": 3.0}, group="steps"),
    Skipped("adam", "no torch", group="torch"),
]


def test_a_line_and_a_table() -> None:
    line = rows.line(ROWS[0])
    assert " ".join(line.split()) == "adamw step 2.00 x Optax [1.50, 2.50] 10 ms 1.25 x stream"
    table = rows.markdown(ROWS)
    assert "### steps" in table
    assert "| lion | step | 0.50 x Optax  [0.40, 0.60] | 2 us |  | copies 0 / 64 |" in table
    assert "0.12 / 110 Optax" in table
    assert "| adam | skipped | no torch |" in table


def test_json_and_chart(tmp_path: Path) -> None:
    rows.write_json(str(tmp_path / "rows.json"), ROWS, {"cores": 2})
    data = json.loads((tmp_path / "rows.json").read_text())
    assert data["about"] == {"cores": 2}
    assert data["rows"][0]["ratio"]["ratio"] == 2
    assert data["rows"][1]["exact"] == {"copies": [0, 64]}
    assert data["rows"][4]["why"] == "no torch"
    rows.write_chart(str(tmp_path / "chart.png"), ROWS, "here; two cores")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(GROUPS, "steps", lambda quick, every: iter([ROWS[0]._replace(group="")]))
    main(
        ["--quick", "--only", "steps", "--table", str(tmp_path / "t.md"), "--json", str(tmp_path / "t.json")]
    )
    assert "2.00 x Optax" in capsys.readouterr().out
    assert "### steps" in (tmp_path / "t.md").read_text()
    with pytest.raises(SystemExit):
        main(["--only", "stepz"])
    assert "'stepz'. There are steps" in capsys.readouterr().err


def test_kernels_are_counted_in_a_profile_of_a_device() -> None:
    stream = SimpleNamespace(name="Stream #13", events=[1, 2, 3, 4])
    other = SimpleNamespace(name="XLA Ops", events=[1])
    device = SimpleNamespace(name="/device:GPU:0", lines=[stream, other])
    host = SimpleNamespace(name="/host:CPU", lines=[stream])
    assert gpu.kernels_in(SimpleNamespace(planes=[device, host]), 2) == 2
    assert gpu.kernels_in(SimpleNamespace(planes=[host]), 2) is None


def test_goals_on_an_accelerator() -> None:
    row = Row("adamw", "100 M f32", limits={"copy": 1.05}, exact={"scratch": (1.0, 1.0)})
    said = gpu.verdicts([row, row._replace(name="muon", limits={"matmul": 2.0}, figure="1 M bf16")])
    assert said[0] == "adamw, 100 M f32: 95 % of the copy's rate, goal 90 %: met"
    assert said[1].endswith("scratch 1 models: missed")
    assert said[2] == "muon, 1 M bf16: 50 % of the matmul's rate, goal 60 %: missed"


def test_an_accumulation_moves_fewer_bytes() -> None:
    like = gpu.model(64 * 64, jnp.float32)
    program = programs.Program(gf.MultiSteps(gf.adamw(1e-3), 4), gf.apply_updates, like)
    assert gpu._moved(program, "accumulate") / 4096 == pytest.approx(4 * 12 + 24, rel=0.01)
    assert gpu._moved(program, "clip + adamw") - gpu._moved(program, "adamw") == 4 * 4096


def test_the_peak_of_an_update_in_place() -> None:
    x = jax.ShapeDtypeStruct((64,), jnp.float32)
    compiled = jax.jit(lambda x, y: x + y, donate_argnums=0).lower(x, x).compile()
    assert gpu.peak(compiled, 64 * 4) == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_the_accelerator_s_script_runs_without_one(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--parameters", "6400", "--dtypes", "bf16", "--only", "adamw,accumulate", "--runs", "1"]
    gpu.main([*arguments, "--repeat", "1", "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["name"] for row in found} == {"adamw", "accumulate"}
    assert found[0]["exact"]["kernels"][0] > 0
    assert "No accelerator" in capsys.readouterr().out


# Those beyond are the bound of the gradient and the bias corrections.
MOST_EQUATIONS = {"adam": 1.05, "adamw": 1.04, "clip + adam": 1.0}


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="exact figures are those of jax 0.10")
@pytest.mark.parametrize("name", MOST_EQUATIONS)
def test_a_training_step_traces_little_more_than_the_peers(name: str) -> None:
    """Equations of PPO's step, with those of shared functions counted once."""
    ours, peers = (
        exact.equations(compiling.traced(library, name, compiling.ppo()).jaxpr.jaxpr)
        for library in (gf, optax)
    )
    assert ours <= MOST_EQUATIONS[name] * peers
