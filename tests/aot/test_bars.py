"""Steps compiled for an H100 and a TPU v5e: deterministic bars. Skipped without the compilers' wheels."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks import aot, matrices
from benchmarks.aot import platforms
from benchmarks.aot.__main__ import main
from benchmarks.exact import scratch
from benchmarks.hlo import cost, held
from gradflow._rules import _leafwise, _traced_once
from gradflow.linalg import _newton_schulz
from gradflow.matrices import _loops
from gradflow.optimizers import _galore, _muon
from gradflow.tree import _bands

PLATFORMS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(aot.missing(name) is not None, reason=str(aot.missing(name))),
    )
    for name in aot.PLATFORMS
]

# Bytes that are read and written, times the least: a norm and finiteness read the gradient once more.
ONE_READING_MORE = 1.15
ROWS = {
    "adamw": 1.01,
    "lion": 1.01,
    "sgd momentum": 1.01,
    "adadelta": 1.01,
    "conditionally_mask(adamw)": 1.01,
    "clip + adamw": ONE_READING_MORE,
    "apply_if_finite(adamw)": ONE_READING_MORE,
    "apply_if_finite(clip + adamw)": ONE_READING_MORE,
    "adan": 1.01,
    "MultiSteps(adamw, 4)": 1.05,
}
# Kernels on a GPU, times the peer's. A kernel updates four of these leaves; a norm reads each one by one.
KERNELS = {"clip + adamw": 0.9, "apply_if_finite(adamw)": 0.83, "apply_if_finite(clip + adamw)": 0.68}
# Outputs go through the core's own memory there.
ON_TPU = {"adadelta": 1.5, "conditionally_mask(adamw)": 1.2, "MultiSteps(adamw, 4)": 1.2}


@pytest.fixture(scope="module", params=PLATFORMS)
def compiler(request: pytest.FixtureRequest) -> aot.Compiler:
    return compiler_for(request.param)


@functools.cache
def compiler_for(platform: str) -> aot.Compiler:
    return aot.Compiler(platform)


@functools.cache
def row_of(compiler: aot.Compiler, group: str, name: str) -> aot.Row:
    """A row, with the peer's stored figures where the same versions made them."""
    row = aot.measured(compiler, group, name, aot.stored_peers(compiler.platform))
    assert isinstance(row, aot.Row), row
    return row


@pytest.mark.parametrize("name", ROWS)
def test_updates_clips_guards_and_accumulations_are_fused(compiler: aot.Compiler, name: str) -> None:
    row = row_of(compiler, "rules", name)
    assert row.ours.cost.copies == 0
    assert row.ours.cost.branches == ()
    assert row.ours.scratch <= row.largest_leaf
    assert row.ours.scratch <= row.peer.scratch + row.model / 50
    if compiler.platform == "h100":
        assert row.ours.cost.kernels <= KERNELS.get(name, 0.65) * row.peer.cost.kernels
    more = ON_TPU.get(name, ROWS[name]) if compiler.platform == "v5e" else ROWS[name]
    assert row.ours.cost.moved <= more * row.least


def test_a_branch_that_is_kept_holds_the_updates(compiler: aot.Compiler) -> None:
    """On a GPU it is a loop, which copies nothing."""
    tx = gf.MultiSteps(gf.adamw(1e-3), 4, keep_branch=True)
    step = aot.lowered(compiler, aot.GROUPS["rules"], tx, gf.apply_updates, "MultiSteps")
    program = compiler.compile(step)
    found = cost(program.as_text())
    assert len(found.branches) == (compiler.platform == "v5e")
    assert (" while(" in program.as_text()) == (compiler.platform == "h100")
    if compiler.platform == "h100":
        assert found.copies == 0
        assert (scratch(program) or 0) <= 1.01 * 32 * 2**20


def test_a_gpu_updates_equal_leaves_in_one_kernel(compiler: aot.Compiler) -> None:
    """35 leaves of nine shapes; LAMB writes each leaf before it takes its norm, so it updates one by one."""
    if compiler.platform == "h100":
        group = aot.Group(lambda: aot.transformer(layers=4), aot.outer, aot.names)
        program = compiler.compile(aot.lowered(compiler, group, gf.adamw(1e-3), gf.apply_updates, "adamw"))
        assert cost(program.as_text()).kernels <= 14
        row = row_of(compiler, "rules", "lamb")
        assert row.ours.scratch <= row.peer.scratch + row.model / 50


# Kernels on a GPU, and bytes moved there, times the least.
IN_PLACE = {"dadapt_adamw": (27, 1.34), "sm3": (18, 1.41), "sophia": (17, 1.15)}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_gpu_copies_no_state_that_it_replaces(compiler: aot.Compiler, name: str) -> None:
    if compiler.platform == "h100":
        row = row_of(compiler, "rules", name)
        kernels, moved = IN_PLACE[name]
        assert row.ours.cost.copies == 0
        assert row.ours.cost.kernels <= kernels
        assert row.ours.cost.moved <= moved * row.least
        assert row.ours.scratch <= row.peer.scratch + row.model / 50


def test_shared_kernels_of_a_network_hold_no_gradients_longer(compiler: aot.Compiler) -> None:
    if compiler.platform == "h100":
        for name in ("clip + adamw", "apply_if_finite(adamw)"):
            row = row_of(compiler, "network", name)
            assert row.ours.scratch <= row.peer.scratch + row.model / 50, name


def test_moments_that_sums_read_are_written_in_place(compiler: aot.Compiler) -> None:
    row = row_of(compiler, "rules", "momo_adam")
    assert row.ours.cost.copies == 0
    if compiler.platform == "h100":
        assert row.ours.scratch <= row.largest_leaf


def test_a_tpu_adds_up_squares_of_a_momentum_where_it_makes_it(compiler: aot.Compiler) -> None:
    if compiler.platform == "v5e":
        row = row_of(compiler, "rules", "muon")
        assert row.ours.cost.kernels <= row.peer.cost.kernels
        assert row.ours.cost.cycles <= 1.002 * row.peer.cost.cycles


@pytest.mark.parametrize("name", ["lamb", "momo", "adadelta"])
def test_what_a_kernel_makes_is_added_up_and_applied_in_it_on_a_tpu(
    compiler: aot.Compiler, name: str
) -> None:
    row = row_of(compiler, "rules", name)
    if compiler.platform == "v5e":
        assert row.ours.cost.kernels <= row.peer.cost.kernels
        assert row.ours.cost.cycles <= 0.9 * row.peer.cost.cycles


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_rules_write_where_they_read(compiler: aot.Compiler, bits: int) -> None:
    like = {"w": jax.ShapeDtypeStruct((8192, 4096), np.float32)}
    tx = gf.quantize_state(gf.scale_by_adam(), bits)
    step = compiler.lower(lambda g, state: tx.update(g, state), like, jax.eval_shape(tx.init, like))
    assert ("triton" if compiler.platform == "h100" else "tpu_custom_call") in step.as_text()
    program = compiler.compile(step)
    assert (scratch(program) or 0) < 2**16, "scalars alone"
    assert cost(program.as_text()).copies == 0


def test_an_accumulation_before_a_guard_is_written_in_place(compiler: aot.Compiler) -> None:
    if compiler.platform == "h100":
        group = aot.GROUPS["rules"]
        tx = gf.MultiSteps(gf.apply_if_finite(gf.adamw(1e-3), 3), 4)
        program = compiler.compile(aot.lowered(compiler, group, tx, gf.apply_updates, "accumulated"))
        assert cost(program.as_text()).copies == 0
        assert (scratch(program) or 0) < 2**20


# Kernels on a GPU, and bytes moved there, times the least.
TWO_NORMS = {"adaptive_grad_clip + adamw": (26, 1.3), "lars": (34, 1.41)}


def test_norms_of_gradient_and_parameter_are_read_once(compiler: aot.Compiler) -> None:
    """On a GPU in one kernel, which writes no leaf."""
    if compiler.platform == "v5e":
        row = row_of(compiler, "rules", "adaptive_grad_clip + adamw")
        assert row.ours.cost.kernels <= row.peer.cost.kernels
        assert row.ours.cost.moved <= 1.15 * row.least
        return
    for name, (kernels, moved) in TWO_NORMS.items():
        row = row_of(compiler, "rules", name)
        assert row.ours.cost.kernels <= min(kernels, row.peer.cost.kernels), name
        assert row.ours.cost.moved <= moved * row.least, name
        assert row.ours.scratch <= row.model / 50, name


def test_no_conditional_is_left_in_a_step_with_norms(compiler: aot.Compiler) -> None:
    group = aot.GROUPS["rules"]
    for tx in (gf.lamb(1e-3), gf.novograd(1e-3)):
        program = compiler.compile(aot.lowered(compiler, group, tx, gf.apply_updates, "norms"))
        assert " conditional(" not in program.as_text()


def test_no_array_waits_in_the_memory_of_a_tpu_for_a_second_reading(compiler: aot.Compiler) -> None:
    """The compiler counts two megabytes and more for the tables of its reads ahead."""
    if compiler.platform == "v5e":
        row = row_of(compiler, "rules", "clip_by_block_rms + adamw")
        assert row.ours.scratch < 4096
        large = jax.ShapeDtypeStruct((8192, 8192), np.float32)
        step = compiler.lower(lambda x, _: (jnp.cumsum(x, 0) / jnp.max(jnp.cumsum(x, 0)), 0), large, ())
        assert held(compiler.compile(step).as_text()) >= 4 * large.size


def test_with_the_arithmetic_of_the_peer_a_row_takes_no_more(compiler: aot.Compiler) -> None:
    """Norms of one sum, moments without a bound and so on, in every row of `EXCESS`."""
    if compiler.platform == "v5e":
        peers = aot.stored_peers("v5e")
        if not peers:
            pytest.skip("the stored figures of the peer are of other versions")
        with arithmetic_of_the_peer():
            for group, name in aot.EXCESS:
                if group not in ("transformer", "many"):  # 64 leaves take the same arithmetic eight times
                    tx = aot.pair(name)[0]
                    step = aot.lowered(compiler, aot.GROUPS[group], tx, gf.apply_updates, name)
                    found = cost(compiler.compile(step).as_text())
                    assert found.cycles <= 1.002 * peers[group, name].cost.cycles, name
                    assert found.kernels <= peers[group, name].cost.kernels, name


def test_in_the_way_of_the_peer_a_row_launches_no_more_on_a_gpu(
    compiler: aot.Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Muon's leaves side by side, with coefficients that kernels read from one array; GaLore with an SVD."""
    if compiler.platform == "v5e":
        return
    peers = aot.stored_peers("h100")
    if not peers:
        pytest.skip("the stored figures of the peer are of other versions")

    def from_one_array(matrix: Any, rows: Any, *numbers: Any, **options: Any) -> Any:
        array = jax.lax.optimization_barrier(jnp.stack([x for row in rows for x in row]))
        return orthogonalize(
            matrix, [list(array[i : i + 3]) for i in range(0, 3 * len(rows), 3)], *numbers, **options
        )

    def by_svd(g: Any, basis: Any, s: Any, *, axes: Any, gap: int) -> Any:
        def new(_: Any, g: Any) -> Any:
            return jnp.linalg.svd(g, full_matrices=False)[0][:, : basis.shape[1]]

        basis = jax.lax.cond(s.count % gap == 0, new, lambda basis, _: basis, basis, g)
        return basis.T @ g, basis

    orthogonalize = _newton_schulz._orthogonalize
    monkeypatch.setattr(_newton_schulz, "_orthogonalize", from_one_array)
    monkeypatch.setattr(_newton_schulz, "_normalize", lambda x, _, eps: x / (jnp.sqrt(jnp.sum(x * x)) + eps))
    monkeypatch.setattr(_loops, "in_turn", lambda done, rest: (list(done), list(rest)))
    monkeypatch.setattr(_galore, "project_rule", by_svd)
    for module in (_muon, _galore):
        monkeypatch.setattr(module, "add_decayed_weights", lambda *_: gf.identity())
    with arithmetic_of_the_peer():
        for group, name in aot.EXCESS_ON_GPU:
            step = aot.lowered(compiler, aot.GROUPS[group], aot.pair(name)[0], gf.apply_updates, name)
            found = cost(compiler.compile(step).as_text())
            assert found.kernels <= peers[group, name].cost.kernels, name
            assert found.copies == 0, name


@contextmanager
def arithmetic_of_the_peer() -> Iterator[None]:
    def one_sum(x: jax.Array, dtype: Any, axis: Any = None, *_: Any, **__: Any) -> tuple[jax.Array, ...]:
        return (jnp.sum(jnp.square(x.astype(dtype)), axis=axis),) * 3

    arithmetic = {
        "bounded": lambda g: g,
        "bounded_if_finite": lambda g: g,
        "bounded_square": jnp.square,
        "banded_square_sums": one_sum,
        "saturated": lambda total: total,
        "kept_in_range": lambda total, _: total,
        "tpu_barrier": lambda x: x,
        "_cube_root": jnp.cbrt,
        "curvature_rule": lambda h, nu, s: (h, s.b2 * nu + s.c2 * h),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in [module for name, module in sys.modules.items() if name.startswith("gradflow.")]:
            for name in arithmetic.keys() & vars(module).keys():
                patch.setattr(module, name, arithmetic[name])
        trace_again()
        yield
    trace_again()


def trace_again() -> None:
    """Rules and norms are traced once per type of leaf."""
    _leafwise._compiled.cache_clear()
    _traced_once.forget()
    _bands._banded_square_sum.cache_clear()
    jax.clear_caches()


def test_a_missing_platform_is_named() -> None:
    why = aot.missing("h200")
    assert why == "no platform is called 'h200'; the known ones are h100, v5e"


def test_a_missing_wheel_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "_found", lambda module: False)
    assert aot.missing("v5e") == "v5e needs libtpu: pip install 'gradflow-jax[aot-tpu]'"
    with pytest.raises(SystemExit):
        main(["--platform", "v5e"])


def test_every_row_has_both_libraries() -> None:
    for name in aot.names():
        ours, peer = aot.pair(name)
        assert ours.init
        assert peer.init
    assert set(aot.MAIN) <= set(aot.names())
    assert set(aot.names()) >= aot.NOT_ELEMENTWISE


def test_leaves_of_a_transformer() -> None:
    assert len(jax.tree.leaves(aot.transformer())) == 195


# Matrices of the largest statistic beside the state: four leaves of 1024 x 1024 on a GPU, 256 x 256 on a TPU.
MATRICES_HELD = {"muon": (3.1, 4), "shampoo": (2.1, 14)}


@pytest.mark.parametrize("name", MATRICES_HELD)
def test_methods_of_matrices_hold_few_of_them(compiler: aot.Compiler, name: str) -> None:
    on_gpu = compiler.platform == "h100"
    row = matrices.method_row(compiler, name, (4, 1024 if on_gpu else 256))
    assert row.scratch <= MATRICES_HELD[name][not on_gpu]


def test_what_a_gpu_holds_for_matrices_does_not_grow_with_the_leaves(compiler: aot.Compiler) -> None:
    """Kron held two transposed averages per leaf, and Shampoo a copy of each momentum.

    Kron's factors move by products of A and B, which all wait for both: with a product and a step it is four.
    """
    if compiler.platform == "h100":
        for name, most in {"kron": 4.1, "shampoo": 2.1}.items():
            row = matrices.method_row(compiler, name, (8, 1024))
            assert row.scratch <= most, name
        assert row.copies == 0


def test_a_refresh_copies_no_bases_on_a_gpu(compiler: aot.Compiler) -> None:
    """As a branch it copied all of them at every step; one call of a rule copies nu for its gather.

    Each refresh, product and moment waits for the one before: two matrices are held, the goal.
    """
    if compiler.platform == "h100":
        row = matrices.method_row(compiler, "soap", (4, 1024))
        assert row.scratch <= 2.1
        assert row.copies <= 4
