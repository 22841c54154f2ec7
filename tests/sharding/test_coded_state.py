"""Coded states on a mesh: no communication, and the numbers of one device bit for bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from gradflow._coding._leaves import is_coded
from gradflow.sharding._communication import communication_of

RNG = np.random.default_rng(0)
SHAPES = {"kernel": (128, 16), "wide": (8, 128), "bias": (16,)}
SPECS = {"kernel": P("x", "y"), "wide": P(None, "x"), "bias": P("y")}
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()} for _ in range(3)]
FORMS = {
    "8 bits": gf.quantize_state(gf.adamw(0.1), block=16, min_size=20),
    "4 bits": gf.quantize_state(gf.adamw(0.1), 4, block=16, min_size=20),
    "bfloat16": gf.cast_state(gf.adamw(0.1), {"mean": "bfloat16", "square": "bfloat16"}),
}


def mesh() -> Mesh:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def placed(tree: Any) -> Any:
    return {k: jax.device_put(x, NamedSharding(mesh(), SPECS[k])) for k, x in tree.items()}


def trained(tx: Any, params: Any, grads: list[Any]) -> Any:
    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gf.apply_updates(params, updates), state

    state = tx.init(params)
    compiled = step.lower(params, state, grads[0]).compile()
    for g in grads:
        params, state = compiled(params, state, g)
    return params, state, compiled


def assert_same(tree: Any, other: Any) -> None:
    for x, y in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("form", FORMS)
def test_codes_and_parameters_are_those_of_one_device(form: str) -> None:
    """Stochastic rounding hashes the place in the whole array."""
    tx = FORMS[form]
    params, state, compiled = trained(tx, placed(PARAMS), list(map(placed, GRADS)))
    kernel = state.inner_state[0].mu["kernel"]
    assert is_coded(kernel)
    assert kernel.codes.sharding.is_equivalent_to(params["kernel"].sharding, 2)
    assert communication_of(compiled, mesh()).count == 0
    alone, its_state, _ = trained(tx, jax.tree.map(jnp.asarray, PARAMS), GRADS)
    assert_same((params, state), (alone, its_state))
    assert np.any(np.asarray(kernel.codes) != 0)


def test_explicit_axes_go_block_by_block_on_each_device() -> None:
    """Types say which blocks a device has: a loop there, where the rows of a piece are in sequence."""
    explicit = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    shapes = {"kernel": (512, 128), "stack": (2, 256, 128)}
    specs = {"kernel": P("x", "y"), "stack": P(None, "x")}
    params, *grads = [{k: RNG.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(3)]

    def put(tree: Any) -> Any:
        return {k: jax.device_put(x, NamedSharding(explicit, specs[k])) for k, x in tree.items()}

    tx = gf.quantize_state(gf.scale_by_adam(), block=64)
    *found, compiled = trained(tx, put(params), list(map(put, grads)))
    assert compiled.as_text().count(" while(") == 1
    assert communication_of(compiled, explicit).count == 0
    *alone, _ = trained(tx, jax.tree.map(jnp.asarray, params), grads)
    assert_same(found[0]["kernel"], alone[0]["kernel"])
    assert_same(found[1], alone[1])


def test_master_params_on_a_mesh() -> None:
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    for form in ("split", "stochastic"):
        tx = gf.master_params(gf.sgd(0.01), form)
        *found, compiled = trained(tx, placed(half), list(map(placed, GRADS)))
        assert communication_of(compiled, mesh()).count == 0
        *expected, _ = trained(tx, jax.tree.map(jnp.asarray, half), GRADS)
        assert_same(found, expected)


def test_everything_together_saves_and_continues_bit_for_bit(tmp_path: Any) -> None:
    """Coded, accumulated, guarded, partitioned Muon and AdamW with metrics, on eight devices."""
    tx = gf.with_metrics(
        gf.quantize_state(
            gf.MultiSteps(
                gf.apply_if_finite(
                    gf.partition({gf.ndim(2): gf.muon(0.02), "**": gf.adamw(0.1)}), 3, check_state=True
                ),
                2,
            ),
            block=16,
            min_size=20,
        )
    )
    params, grads = placed(PARAMS), list(map(placed, GRADS))

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gf.apply_updates(params, updates), state

    state = tx.init(params)
    for g in (*grads, {**grads[0], "bias": grads[0]["bias"] * np.nan}):
        params, state = step(params, state, g)
    assert sum(map(is_coded, jax.tree.leaves(state, is_leaf=is_coded))) == 2
    saved = gf.state_dict(tx, state)
    assert any(name.endswith("/kernel/codes") for name in saved)
    gf.checkpoint.save(tmp_path / "run.npz", saved)
    restored, report = gf.load_state_dict(tx, params, gf.checkpoint.load(tmp_path / "run.npz"))
    assert not report.new
    assert not report.dropped
    assert_same(restored, state)
    on, off = (params, state), (params, restored)
    for g in grads:
        on, off = step(*on, g), step(*off, g)
    assert_same(on, off)
    assert np.isfinite(np.asarray(on[0]["kernel"])).all()
