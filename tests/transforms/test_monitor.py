"""snapshot, monitor and measure_with_ema: states that never change their form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones(3, jnp.bfloat16), "b": None}
GRADS = [{"w": jnp.full(3, k, jnp.float32), "b": None} for k in (1.0, 2.0, 3.0)]


def form(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, x.weak_type) for x in leaves]


def test_a_snapshot_is_what_passes_at_its_place() -> None:
    tx = gf.chain(
        gf.snapshot("before", gf.tree.norm),
        gf.clip_by_global_norm(0.5),
        gf.snapshot("after", lambda u: {"norm": gf.tree.norm(u), "itself": u}),
    )
    state = tx.init(PARAMS)
    before = form(state)
    assert np.isnan(gf.tree.get(state, "before"))
    for g in GRADS:
        updates, state = jax.jit(tx.update)(g, state, PARAMS)
        np.testing.assert_allclose(gf.tree.get(state, "before"), gf.tree.norm(g), rtol=1e-6)
        np.testing.assert_allclose(gf.tree.get(state, "after")["norm"], 0.5, rtol=1e-2)
        np.testing.assert_allclose(
            np.float32(gf.tree.get(state, "after")["itself"]["w"]), updates["w"], rtol=1e-2
        )
    assert form(state) == before


def test_measurements_of_every_kind_keep_their_form_from_init_on() -> None:
    tx = gf.monitor(
        {
            "norm": gf.tree.norm,
            "large": lambda u: gf.tree.norm(u) > 4.0,
            "often": gf.measure_with_ema(lambda u: gf.tree.norm(u) > 3.0, decay=0.5),
            "mean": gf.measure_with_ema(lambda u: u, decay=0.5, debias=False),
            "number": lambda u: 3,
        }
    )
    state = tx.init(PARAMS)
    before = form(state)
    assert set(state.measurements) == {"norm", "large", "often", "mean", "number"}
    assert np.isnan(state.measurements["norm"])

    def body(state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, PARAMS)
        return state, updates

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADS)
    state, updates = jax.lax.scan(body, state, stacked)
    np.testing.assert_array_equal(updates["w"], stacked["w"])
    assert form(state) == before
    values = state.measurements
    np.testing.assert_allclose(values["norm"], 3 * np.sqrt(3), rtol=1e-6)
    assert bool(values["large"])
    # 0, 1, 1 with weights 1/8, 1/4, 1/2 of which the sum is 7/8.
    np.testing.assert_allclose(values["often"], (0.25 + 0.5) / 0.875, rtol=1e-6)
    np.testing.assert_allclose(np.float32(values["mean"]["w"]), 1 / 8 + 2 / 4 + 3 / 2, rtol=1e-2)
    assert int(values["number"]) == 3


def test_a_snapshot_of_the_updates_may_be_donated() -> None:
    params = {"w": jnp.ones(3)}
    tx = gf.snapshot("all", lambda u: u)
    state = tx.init(params)
    updates, state = tx.update(params, state, params)
    kept = state.measurement["all"]["w"]
    assert kept.unsafe_buffer_pointer() != updates["w"].unsafe_buffer_pointer()


def test_transformations_measure_too_and_get_extra_arguments() -> None:
    tx = gf.monitor({"momentum": gf.trace(0.5)})
    state = tx.init(PARAMS)
    for g in GRADS:
        _, state = tx.update(g, state, PARAMS)
    np.testing.assert_allclose(np.float32(state.measurements["momentum"]["w"]), 4.25, rtol=1e-2)


def test_the_rest_of_a_chain_is_checked_as_ever() -> None:
    tx = gf.chain(gf.monitor({"x": gf.measure_with_ema(gf.tree.norm, 0.9)}), gf.sgd(0.1))
    with pytest.raises(ValueError, match=r"equal shapes; got .* at 'w'"):
        tx.update({"w": jnp.ones(2), "b": None}, tx.init(PARAMS), PARAMS)


def test_mistakes_are_named() -> None:
    changing = gf.snapshot("x", lambda u: u["w"][: int(u["w"].dtype.itemsize)])
    with pytest.raises(ValueError, match=r"snapshot: the measurement 'x' of the updates and the one of init"):
        changing.update(GRADS[0], changing.init({"w": jnp.ones(3, jnp.bfloat16)}))
    with pytest.raises(TypeError, match="snapshot: argument 'measure_name' must be a string"):
        gf.snapshot(gf.tree.norm, gf.tree.norm)
    with pytest.raises(TypeError, match="snapshot: argument 'measure' must be a function; got 3"):
        gf.snapshot("x", 3)
    with pytest.raises(TypeError, match="monitor: argument 'measures' must be a dict"):
        gf.monitor([gf.tree.norm])
    with pytest.raises(TypeError, match="monitor: every measure must be a function"):
        gf.monitor({"x": 1.0})
