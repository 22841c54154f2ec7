"""States saved by name: files, edited expressions, and what is refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
import safetensors.flax
import safetensors.numpy
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from trees import small

import gradflow as gf

GOLDEN = Path(__file__).parent / "golden"


def params_of(*names: str) -> Any:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for name in names or ("a", "b")}


def trained(tx: Any, params: Any, steps: int = 3) -> tuple[Any, Any]:
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = gf.apply_updates(params, updates)
    return params, state


@pytest.fixture
def standard_promotion() -> Any:
    with jax.numpy_dtype_promotion("standard"):
        yield


def moved(old: Any, new: Any, params: Any = None, strict: bool = True) -> tuple[dict[str, Any], Any, Any]:
    """What `old` saved, and what `new` made of it."""
    params, state = trained(old, params_of() if params is None else params)
    d = gf.state_dict(old, state)
    state, report = gf.load_state_dict(new, params, d, strict=strict)
    new.update(params, state, params)  # it is a state that works
    return d, gf.state_dict(new, state), report


def names(d: Any) -> list[str]:
    return [name for name in d if name != "gradflow_state"]


def assert_equal(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Names


def test_names_are_stage_field_and_parameter() -> None:
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    params = {"encoder": {"kernel": jnp.ones((2, 3))}}
    assert names(gf.state_dict(tx, tx.init(params))) == [
        "chain.adamw.scale_by_adam.count",
        "chain.adamw.scale_by_adam.mu/encoder/kernel",
        "chain.adamw.scale_by_adam.nu/encoder/kernel",
        "chain.adamw.scale_by_learning_rate.count",
    ]


@pytest.mark.parametrize(
    "other",
    [
        gf.chain(gf.adamw(gf.linear_schedule(0.1, 0.0, 9)), gf.clip_by_global_norm(1.0)),
        gf.chain(gf.centralize(), gf.clip(1.0), gf.adamw(0.1, mask={"a": True, "b": False})),
    ],
)
def test_names_do_not_depend_on_places_and_schedules(other: Any) -> None:
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    params = params_of()
    assert names(gf.state_dict(tx, tx.init(params))) == names(gf.state_dict(other, other.init(params)))


def test_equal_siblings_are_numbered_and_labels_kept() -> None:
    tx = gf.named_chain(
        ("slow", gf.chain(gf.trace(0.9), gf.trace(0.99))),
        (
            "parts",
            gf.partition({"**": gf.ema(0.9)}),
        ),
    )
    assert names(gf.state_dict(tx, tx.init({"w": jnp.ones(2)}))) == [
        "named_chain.parts.partition.**.ema.count",
        "named_chain.parts.partition.**.ema.ema/w",
        "named_chain.slow.chain.trace[0].trace/w",
        "named_chain.slow.chain.trace[1].trace/w",
    ]


def test_keys_that_are_written_alike_are_told_apart() -> None:
    params = {"a/b": jnp.full(2, 1.0), "a": {"b": jnp.full(2, 2.0)}}
    tx = gf.trace(0.9)
    state = gf.TraceState(params)
    d = gf.state_dict(tx, state)
    assert names(d) == ["trace.trace/a/b", "trace.trace/a/b~2"]
    loaded, _ = gf.load_state_dict(tx, params, d)
    jax.tree.map(assert_equal, loaded, state)


def test_the_expression_is_inside() -> None:
    params = params_of()
    tx = gf.chain(gf.clip(1.0), gf.adamw(gf.linear_schedule(0.1, 0.0, 9)))
    header = json.loads(gf.state_dict(tx, tx.init(params))["gradflow_state"].tobytes())
    assert (header["gradflow_state"], header["expression"]) == (1, repr(tx))
    assert gf.from_config(header["config"]) == tx
    unnameable = gf.adamw(lambda step: 0.1)
    header = json.loads(gf.state_dict(unnameable, unnameable.init(params))["gradflow_state"].tobytes())
    assert header["config"] is None


# Files


def everything() -> tuple[Any, Any]:
    """A state of many dtypes."""
    params = {"w": jnp.ones((4, 3), jnp.bfloat16), "b": jnp.ones(3)}
    tx = gf.chain(
        gf.add_noise(0.01, 0.55, key=0), gf.adamw(0.1), gf.zero_nans(), gf.tunable(gf.sgd(0.1, 0.9))
    )
    return tx, params


class KeyState(NamedTuple):
    key: jax.Array


@gf.transformation
def keyed() -> Any:
    """Keeps a PRNG key object."""

    def init(params: Any) -> Any:
        return KeyState(jax.random.key(0))

    def update(updates: Any, state: KeyState, params: Any = None) -> Any:
        return updates, KeyState(jax.random.split(state.key)[0])

    return init, update


def npz(d: Any, path: Path) -> Any:
    np.savez(path / "state.npz", **d)
    return np.load(path / "state.npz")


def safe_flax(d: Any, path: Path) -> Any:
    safetensors.flax.save_file(d, path / "state.safetensors")
    return safetensors.flax.load_file(path / "state.safetensors")


def safe_numpy(d: Any, path: Path) -> Any:
    safetensors.numpy.save_file(jax.device_get(d), path / "state.safetensors")
    return safetensors.numpy.load_file(path / "state.safetensors")


@pytest.mark.parametrize("through", [npz, safe_flax, safe_numpy])
def test_files(through: Callable[..., Any], tmp_path: Path) -> None:
    tx, params = everything()
    params, state = trained(tx, params)
    loaded, report = gf.load_state_dict(tx, params, through(gf.state_dict(tx, state), tmp_path))
    assert (report.new, report.dropped) == ((), ())
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        assert_equal(a, b)


@pytest.mark.parametrize("through", [npz, safe_flax])
def test_prng_keys(through: Callable[..., Any], tmp_path: Path) -> None:
    tx = keyed()
    _, state = trained(tx, params_of())
    loaded, _ = gf.load_state_dict(tx, params_of(), through(gf.state_dict(tx, state), tmp_path))
    assert loaded.key.dtype == state.key.dtype
    assert_equal(jax.random.key_data(loaded.key), jax.random.key_data(state.key))


def test_orbax_stores_the_state_itself(tmp_path: Path) -> None:
    tx, params = everything()
    params, state = trained(tx, params)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        like = jax.eval_shape(tx.init, params)
        restored = checkpointer.restore(tmp_path / "state", like)
    jax.tree.map(assert_equal, restored, state)
    d, e = gf.state_dict(tx, restored), gf.state_dict(tx, state)
    assert list(d) == list(e)


def test_arrays_are_placed_as_init_places_them(tmp_path: Path) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = {"w": jnp.arange(16.0).reshape(8, 2), "b": jnp.ones(3)}
    shardings = {"w": NamedSharding(mesh, P("x")), "b": NamedSharding(mesh, P())}
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    params, state = trained(tx, jax.device_put(whole, shardings))
    wanted = tx.init(params)
    for d in (gf.state_dict(tx, state), npz(gf.state_dict(tx, state), tmp_path)):
        loaded, _ = gf.load_state_dict(tx, params, d)
        for a, b, like in zip(*map(jax.tree.leaves, (loaded, state, wanted)), strict=True):
            assert a.sharding == like.sharding
            assert_equal(a, b)
    alone, _ = gf.load_state_dict(tx, whole, npz(gf.state_dict(tx, state), tmp_path))
    assert not any(leaf.committed for leaf in jax.tree.leaves(alone))


def test_the_loaded_state_is_nobody_elses() -> None:
    tx, params = gf.adam(0.1), params_of()
    _, state = trained(tx, params)
    loaded, _ = gf.load_state_dict(tx, params, gf.state_dict(tx, state))
    jax.tree.map(lambda x: x.delete(), loaded)
    jax.tree.map(np.asarray, state)


# Golden files


def _golden() -> dict[str, tuple[Any, Any]]:
    by_rank = {"**/kernel": gf.adamw(0.1), "**": gf.sgd(0.1, momentum=0.9)}
    halves = {"w": jnp.ones((2, 2), jnp.bfloat16), "b": jnp.ones(2)}
    return {
        "adamw": (gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(gf.linear_schedule(0.1, 0.0, 9))), small(0)),
        "partition": (gf.partition(by_rank), {"layer": small(0)}),
        "wrappers": (
            gf.MultiSteps(gf.apply_if_finite(gf.tunable(gf.sgd(0.1, momentum=0.9)), 2), 2),
            small(0),
        ),
        "dtypes": (gf.chain(gf.add_noise(0.01, 0.55, key=0), gf.lion(0.1), gf.zero_nans()), halves),
        "lbfgs": (gf.lbfgs(0.5, memory_size=2), small(0)),
    }


def numbered(state: Any) -> Any:
    """A state whose numbers follow from their place alone."""
    leaves, structure = jax.tree.flatten(state)
    numbers = [(np.arange(x.size).reshape(x.shape) + i) % 50 for i, x in enumerate(leaves)]
    return jax.tree.unflatten(
        structure, [jnp.asarray(n, x.dtype) for n, x in zip(numbers, leaves, strict=True)]
    )


def write_golden() -> None:
    """Writes the files of today's format, for a format of a new number:

    cd tests && python -c "import test_checkpoint; test_checkpoint.write_golden()"
    """
    for name, (tx, params) in _golden().items():
        np.savez_compressed(GOLDEN / f"{name}.npz", **gf.state_dict(tx, numbered(tx.init(params))))


@pytest.mark.parametrize("name", _golden())
def test_files_of_this_format_can_be_read(name: str) -> None:
    tx, params = _golden()[name]
    file = np.load(GOLDEN / f"{name}.npz")
    state, report = gf.load_state_dict(tx, params, file)
    assert (report.new, report.dropped) == ((), ())
    jax.tree.map(assert_equal, state, numbered(tx.init(params)))
    assert sorted(file) == sorted(gf.state_dict(tx, state))


# Edited expressions

ADAMW = gf.adamw(0.1)


@pytest.mark.parametrize(
    "new",
    [
        gf.adamw(0.01),
        gf.adamw(gf.cosine_decay_schedule(0.1, 100), weight_decay=0.1, b2=0.99),
        gf.adam(0.1),
        gf.nadamw(0.1),
        gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1)),
        gf.chain(gf.adamw(0.1), gf.centralize()),
        gf.named_chain(("clip", gf.clip(1.0)), ("adam", gf.adam(0.1))),
        gf.apply_if_finite(gf.adamw(0.1), 3),
        gf.MultiSteps(gf.adamw(0.1), 2),
        gf.tunable(gf.chain(gf.zero_nans(), gf.adamw(0.1))),
        gf.masked(gf.adamw(0.1), {"a": True, "b": True}),
        gf.partition({"a": gf.adamw(0.1), "**": gf.adam(0.1)}),
        gf.inject_hyperparams(gf.adamw)(learning_rate=0.1),
        gf.chain(gf.scale_by_adam(), gf.scale_by_trust_ratio(), gf.scale_by_learning_rate(0.1)),
    ],
    ids=lambda tx: tx.expression.name,
)
def test_edits_keep_moments_and_counts_both_ways(new: Any) -> None:
    d, e, report = moved(ADAMW, new)
    assert report.dropped == ()
    assert {report.kept[name] for name in report.kept} == set(names(d))
    for name, old in report.kept.items():
        assert_equal(e[name], d[old])
    assert all("scale_by_adam" not in name and "scale_by_learning_rate" not in name for name in report.new)
    params = params_of()
    state, _ = gf.load_state_dict(new, params, d)
    back, report = gf.load_state_dict(ADAMW, params, gf.state_dict(new, state))
    assert report.new == ()
    for name in names(d):
        assert_equal(gf.state_dict(ADAMW, back)[name], d[name])


def test_a_changed_rate_goes_on_as_if_it_had_been_changed_in_place() -> None:
    params, state = trained(ADAMW, params_of())
    new = gf.replace(ADAMW, {"learning_rate": 0.001, "weight_decay": 0.5})
    loaded, _ = gf.load_state_dict(new, params, gf.state_dict(ADAMW, state))
    expected, _ = new.update(params, state, params)
    actual, _ = new.update(params, loaded, params)
    jax.tree.map(assert_equal, actual, expected)


def test_momentum_is_kept_where_nesterov_and_weight_decay_are_added() -> None:
    new = gf.chain(gf.add_decayed_weights(0.01), gf.sgd(0.05, momentum=0.9, nesterov=True))
    d, e, report = moved(gf.sgd(0.1, momentum=0.9), new)
    assert (report.new, report.dropped) == ((), ())
    assert_equal(e["chain.sgd.trace.trace/a"], d["sgd.trace.trace/a"])


def test_stages_that_go_are_reported() -> None:
    _, _, report = moved(gf.chain(gf.ema(0.9), gf.adam(0.1)), gf.adam(0.1))
    assert report.dropped == ("chain.ema.count", "chain.ema.ema/a", "chain.ema.ema/b")
    assert report.new == ()
    _, _, report = moved(gf.adam(0.1), gf.sgd(0.1))
    assert [n for n in report.dropped if "mu" in n] == ["adam.scale_by_adam.mu/a", "adam.scale_by_adam.mu/b"]
    assert list(report.kept) == ["sgd.scale_by_learning_rate.count"]
    text = str(report)
    assert text.startswith("kept 1; of these moved: sgd.scale_by_learning_rate.count (from adam.scale")
    assert "dropped: adam.scale_by_adam.count, " in text


def test_parameters_that_are_frozen_or_thawed_are_reported() -> None:
    some = gf.selective_transform(gf.adam(0.1), freeze_mask={"a": True, "b": False})
    d, e, report = moved(gf.adam(0.1), some)
    assert report.dropped == ("adam.scale_by_adam.mu/a", "adam.scale_by_adam.nu/a")
    assert report.new == ()
    assert_equal(e["selective_transform.train.adam.scale_by_adam.mu/b"], d["adam.scale_by_adam.mu/b"])
    other = gf.selective_transform(gf.adam(0.1), freeze_mask={"a": False, "b": True})
    _, e, report = moved(some, other)
    stage = "selective_transform.train.adam.scale_by_adam"
    # All moments are new, so the steps for which they are corrected are counted from zero.
    assert report.dropped == (f"{stage}.count", f"{stage}.mu/b", f"{stage}.nu/b")
    assert report.new == (f"{stage}.count", f"{stage}.mu/a", f"{stage}.nu/a")
    assert_equal(e[f"{stage}.mu/a"], np.zeros((2, 3)))


def groups(labels: Any, **stages: Any) -> Any:
    return gf.partition(stages, labels)


def test_a_parameter_takes_its_moments_to_another_group() -> None:
    params = params_of("a", "b", "c")
    old = groups({"a": "x", "b": "x", "c": "y"}, x=gf.adamw(0.1), y=gf.adamw(0.1, weight_decay=0.0))
    new = groups({"a": "x", "b": "y", "c": "y"}, x=gf.adamw(0.1), y=gf.adamw(0.1, weight_decay=0.0))
    d, e, report = moved(old, new, params)
    assert (report.new, report.dropped) == ((), ())
    assert_equal(e["partition.y.adamw.scale_by_adam.mu/b"], d["partition.x.adamw.scale_by_adam.mu/b"])
    renamed = groups({"a": "u", "b": "v", "c": "v"}, u=gf.adamw(0.1), v=gf.adamw(0.1))
    _, e, report = moved(old, renamed, params)
    assert report.new == ()
    assert_equal(e["partition.v.adamw.scale_by_adam.count"], 3)
    one, report = moved(old, gf.adamw(0.1), params)[1:]
    assert report.new == ()
    assert_equal(one["adamw.scale_by_learning_rate.count"], 3)


def test_groups_at_different_steps_are_not_made_one() -> None:
    params = params_of()
    old = groups({"a": "x", "b": "y"}, x=gf.adam(0.1), y=gf.adam(0.1))
    _, state = trained(old, params)
    d = gf.state_dict(old, state)
    d["partition.y.adam.scale_by_adam.count"] = jnp.int32(7)
    with pytest.raises(ValueError, match=r"moments go to 'adam\.scale_by_adam' must have equal 'count'"):
        gf.load_state_dict(gf.adam(0.1), params, d)
    _, report = gf.load_state_dict(gf.adam(0.1), params, d, strict=False)
    assert report.kept["adam.scale_by_adam.mu/b"] == "partition.y.adam.scale_by_adam.mu/b"


def test_one_array_for_all_parameters() -> None:
    params = jnp.ones(3)
    old, new = gf.adam(0.1), gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    d, e, report = moved(old, new, params=params)
    assert (report.new, report.dropped) == ((), ())
    assert_equal(e["chain.adamw.scale_by_adam.nu"], d["adam.scale_by_adam.nu"])
    with pytest.raises(ValueError, match="scale_by_adam is not scale_by_belief"):
        gf.load_state_dict(gf.adabelief(0.1), params, d)


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            gf.adam(0.1),
            gf.adabelief(0.1),
            r"'adabelief\.scale_by_belief' replaces 'adam\.scale_by_ad",
        ),
        (gf.adam(0.1), gf.lion(0.1), "scale_by_adam is not scale_by_lion"),
        (gf.sgd(0.1, momentum=0.9), gf.adam(0.1), r"cannot take its moments \(trace\)"),
        (gf.sgd(0.1, momentum=0.9), gf.sgd(0.1, momentum=0.9, dampening=0.5), "trace is not dampened_trace"),
        (gf.adam(0.1), gf.flatten(gf.adam(0.1)), "it keeps them in another form"),
        (
            gf.flatten(gf.adam(0.1)),
            gf.adam(0.1),
            "it keeps them in another form",
        ),
        (gf.chain(gf.trace(0.9), gf.trace(0.5)), gf.trace(0.9), r"one place each; got chain\.trace\[0\]"),
        (gf.flatten(gf.adam(0.1)), gf.flatten(gf.adabelief(0.1)), "scale_by_adam is not scale_by_belief"),
        (
            gf.adamw(0.1),
            gf.partition({"a": gf.muon(0.1), "**": gf.adamw(0.1)}),
            "scale_by_adam is not scale_by_muon",
        ),
        (gf.adamw(0.1), gf.muon(0.1), "scale_by_adam is not scale_by_muon"),
        (gf.galore(0.1, 1), gf.galore(0.1, 1, base_optimizer=gf.scale_by_lion()), "scale_by_lion"),
        (
            gf.chain(gf.with_extra_args_support(optax.scale_by_adam()), gf.scale(-0.1)),
            gf.chain(gf.with_extra_args_support(optax.scale_by_belief()), gf.scale(-0.1)),
            "ScaleByAdamState is not GradientTransformation:ScaleByBeliefState",
        ),
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_moments_of_another_rule_are_refused(old: Any, new: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        moved(old, new)
    d, _, report = moved(old, new, strict=False)
    assert set(report.kept.values()) | set(report.dropped) == set(names(d))
    assert report.dropped


def test_moments_inside_lookahead_are_refused_too() -> None:
    params = gf.LookaheadParams.init_synced(params_of())
    old, new = (gf.lookahead(tx, 2, 0.5) for tx in (gf.adam(0.1), gf.adabelief(0.1)))
    with pytest.raises(ValueError, match="scale_by_adam is not scale_by_belief"):
        gf.load_state_dict(new, params, gf.state_dict(old, old.init(params)))


def test_wrong_trees_name_the_parameter() -> None:
    _, state = trained(ADAMW, params_of("kernel", "bias"))
    d = gf.state_dict(ADAMW, state)
    with pytest.raises(ValueError, match=r"mu/kernel' must be for a parameter of.*'kernels'"):
        gf.load_state_dict(ADAMW, params_of("kernels", "bias"), d)
    with pytest.raises(
        ValueError, match=r"'adamw.scale_by_adam.mu/bias' must be float32\[5\]; got float32\[2,3\]"
    ):
        gf.load_state_dict(ADAMW, {**params_of("kernel"), "bias": jnp.ones(5)}, d)
    half = jax.tree.map(lambda p: p.astype(jnp.float16), params_of("kernel", "bias"))
    with pytest.raises(ValueError, match=r"mu/bias' must be float16\[2,3\]; got float32\[2,3\]"):
        gf.load_state_dict(ADAMW, half, d)
    _, report = gf.load_state_dict(ADAMW, {**params_of("kernel"), "bias": jnp.ones(5)}, d, strict=False)
    assert report.new == report.dropped == ("adamw.scale_by_adam.mu/bias", "adamw.scale_by_adam.nu/bias")
    # Where no moment fits, their steps are counted from zero; the schedule goes on.
    _, report = gf.load_state_dict(ADAMW, {"kernel": jnp.ones(1), "bias": jnp.ones(5)}, d, strict=False)
    assert list(report.kept) == ["adamw.scale_by_learning_rate.count"]


def saved() -> dict[str, Any]:
    return gf.state_dict(ADAMW, trained(ADAMW, params_of())[1])


def with_header(**changes: Any) -> dict[str, Any]:
    d = saved()
    header = {**json.loads(d["gradflow_state"].tobytes()), **changes}
    return {**d, "gradflow_state": np.frombuffer(json.dumps(header).encode(), np.uint8)}


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: with_header(gradflow_state=2),
            ValueError,
            "must have format 1; got format 2",
        ),
        (lambda: {"mu": np.ones(3)}, ValueError, "no entry 'gradflow_state'"),
        (lambda: {**saved(), "gradflow_state": np.zeros(3, np.uint8)}, ValueError, "is damaged"),
        (lambda: with_header(leaves={"adamw.scale_by_adam.count": {}}), ValueError, "is damaged"),
        (lambda: with_header(leaves=[]), ValueError, "is damaged"),
        (
            lambda: {**saved(), "adamw.scale_by_adam.mu/z": np.ones(3)},
            ValueError,
            r"names of this state; got .*mu/z\. Did",
        ),
        (
            lambda: {k: v for k, v in saved().items() if "nu/" not in k},
            ValueError,
            "missing: adamw.scale_by_adam.nu/a, adamw.scale_by_adam.nu/b",
        ),
        (lambda: trained(ADAMW, params_of())[1], TypeError, "must come from state_dict"),
    ],
)
def test_mappings_that_are_none_of_ours(make: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        gf.load_state_dict(ADAMW, params_of(), make())


def test_entries_may_be_renamed_by_hand(tmp_path: Path) -> None:
    d, params = saved(), params_of("a", "c")
    renamed = {name.replace("/b", "/c"): value for name, value in d.items()}
    state, report = gf.load_state_dict(ADAMW, params, npz(renamed, tmp_path))
    assert (report.new, report.dropped) == ((), ())
    assert_equal(gf.state_dict(ADAMW, state)["adamw.scale_by_adam.mu/c"], d["adamw.scale_by_adam.mu/b"])


@pytest.mark.parametrize(
    ("tx", "other", "words"),
    [
        (gf.adam(0.1), gf.sgd(0.1), r"'adam\.scale_by_adam' keeps a ScaleByAdamState; got an Em"),
        (gf.adamw(0.1, mask=None), gf.trace(0.1), r"'adamw' keeps a tuple of . states; got a TraceState"),
        (
            gf.scale_by_adam(),
            gf.scale_by_belief(),
            "'scale_by_adam' keeps a ScaleByAdamState; got a ScaleByBel",
        ),
        (
            gf.named_chain(("x", gf.ema(0.9))),
            gf.named_chain(("y", gf.ema(0.9))),
            "keeps the states 'x'; got a di",
        ),
    ],
)
def test_the_state_of_another_transformation_is_refused(tx: Any, other: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"state_dict: argument 'state' must be a state of .*{words}"):
        gf.state_dict(tx, other.init(params_of()))


def test_a_donated_state_is_stale() -> None:
    _, state = trained(ADAMW, params_of())
    d = gf.state_dict(ADAMW, state)
    jax.tree.map(lambda x: x.delete(), state)
    with pytest.raises(
        ValueError,
        match=r"state_dict: .*'adamw\.scale_by_adam\.count', which was donated",
    ):
        gf.state_dict(ADAMW, state)
    with pytest.raises(ValueError, match=r"load_state_dict: .*'adamw\.scale_by_adam\.count', which was don"):
        gf.load_state_dict(ADAMW, params_of(), d)


def test_shapes_are_no_parameters() -> None:
    with pytest.raises(TypeError, match="'params' must hold arrays"):
        gf.load_state_dict(ADAMW, jax.eval_shape(lambda: params_of()), saved())


# Stages of others


class MyState(NamedTuple):
    inner: Any
    seen: jax.Array


@gf.transformation
def counting(inner: gf.GradientTransformation) -> Any:
    """A wrapper that says nothing of its state."""

    def init(params: Any) -> Any:
        return MyState(inner.init(params), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, MyState(inner_state, state.seen + 1)

    return init, update


def test_wrappers_of_others_are_looked_through() -> None:
    d, e, report = moved(gf.adam(0.1), counting(gf.adam(0.1)))
    assert (report.new, report.dropped) == (("counting.seen",), ())
    assert_equal(e["counting.adam.scale_by_adam.mu/a"], d["adam.scale_by_adam.mu/a"])


@pytest.mark.usefixtures("standard_promotion")
def test_chains_of_others_keep_their_moments() -> None:
    old = gf.chain(gf.with_extra_args_support(optax.adamw(0.1)))
    new = gf.apply_if_finite(gf.with_extra_args_support(optax.adamw(0.1)), 2)
    d, e, report = moved(old, new)
    assert report.dropped == ()
    inside = "GradientTransformation.0.mu/a"
    assert_equal(e[f"apply_if_finite.{inside}"], d[f"chain.{inside}"])


def test_it_runs_under_jit() -> None:
    params, state = trained(ADAMW, params_of())
    arrays = jax.jit(lambda state: {k: v for k, v in gf.state_dict(ADAMW, state).items() if k[0] == "a"})(
        state
    )
    assert sorted(arrays) == sorted(names(gf.state_dict(ADAMW, state)))
    d = gf.state_dict(ADAMW, state)
    loaded = jax.jit(lambda params: gf.load_state_dict(ADAMW, params, d)[0])(params)
    jax.tree.map(assert_equal, loaded, state)


def test_reading_takes_each_entry_once() -> None:
    file = io.BytesIO()
    np.savez(file, **saved())
    file.seek(0)
    opened: dict[str, int] = {}

    class Counting(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            opened[name] = opened.get(name, 0) + 1
            return super().__getitem__(name)

    gf.load_state_dict(ADAMW, params_of(), Counting(np.load(file)))
    assert set(opened.values()) == {1}
