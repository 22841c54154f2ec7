"""lookahead: the equations, what the state does, and what it asks of parameters and gradients."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "b": None}
RNG = np.random.default_rng(0)
GRADS = [{"w": jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32), "b": None} for _ in range(7)]


def run(tx: Any, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    state = tx.init(params)
    for g in grads:
        updates, state = jax.jit(tx.update)(g, state, params)
        params = gf.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("reset", [False, True])
def test_the_papers_equations(reset: bool) -> None:
    tx = gf.lookahead(gf.sgd(0.1, momentum=0.9), 3, 0.25, reset_state=reset)
    params, state = run(tx, gf.LookaheadParams.init_synced(PARAMS), GRADS)
    fast = slow = np.asarray(PARAMS["w"], np.float64)
    trace = np.zeros((2, 3))
    for t, g in enumerate(GRADS):
        trace = 0.9 * trace + np.asarray(g["w"], np.float64)
        fast = fast - 0.1 * trace
        if (t + 1) % 3 == 0:
            slow = fast = slow + 0.25 * (fast - slow)
            trace = trace * (not reset)
    np.testing.assert_allclose(params.fast["w"], fast, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params.slow["w"], slow, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.fast_state[0].trace["w"], trace, rtol=1e-5, atol=1e-6)
    assert int(state.steps_since_sync) == 1


def test_a_reset_begins_at_the_parameters_that_are_then_current() -> None:
    tx = gf.lookahead(gf.madgrad(0.1), 2, 0.5, reset_state=True)
    params, state = run(tx, gf.LookaheadParams.init_synced(PARAMS), GRADS[:2])
    x0 = gf.tree.get(state, "x0")
    np.testing.assert_allclose(x0["w"], params.fast["w"], rtol=1e-6)


def test_in_a_chain_with_half_precision_parameters() -> None:
    half = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.lookahead(gf.adam(0.1), 2, 0.5))
    params = gf.LookaheadParams.init_synced(half)
    updates, _ = tx.update({"w": jnp.ones(3, jnp.float32)}, tx.init(params), params)
    assert isinstance(updates, gf.LookaheadParams)
    assert updates.fast["w"].dtype == updates.slow["w"].dtype == jnp.float32
    moved = gf.apply_updates(params, updates)
    assert moved.fast["w"].dtype == jnp.bfloat16


def test_both_copies_and_the_state_may_be_donated() -> None:
    tx = gf.lookahead(gf.adam(0.1), 2, 0.5)
    params = gf.LookaheadParams.init_synced({"w": jnp.ones(3)})
    step = jax.jit(lambda p, s: tx.update({"w": p.fast["w"]}, s, p), donate_argnums=(0, 1))
    updates, _ = step(params, tx.init(params))
    assert np.all(np.isfinite(updates.fast["w"]))


def test_it_is_a_value() -> None:
    tx = gf.lookahead(gf.adam(0.1), 2, 0.5)
    assert tx == gf.lookahead(gf.adam(0.1), 2, 0.5) == pickle.loads(pickle.dumps(tx))
    assert gf.from_config(gf.to_config(tx)) == tx


def test_reports_and_extra_arguments_come_through() -> None:
    tx = gf.lookahead(gf.chain(gf.reduce_on_plateau(), gf.sgd(0.1)), 1, 0.5)
    params = gf.LookaheadParams.init_synced({"w": jnp.ones(3)})
    with gf.collecting() as heard:
        tx.update({"w": jnp.ones(3)}, tx.init(params), params, value=jnp.float32(1))
    assert heard.values["synced"] == 1
    assert any(name.endswith("reduce_on_plateau.scale") for name in heard.values)


def test_mistakes_are_named() -> None:
    tx = gf.lookahead(gf.sgd(0.1), 2, 0.5)
    params = gf.LookaheadParams.init_synced({"w": jnp.ones(3)})
    state = tx.init(params)
    with pytest.raises(TypeError, match=r"must be .*LookaheadParams.*got a dict with keys \{w\}"):
        tx.init({"w": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"must be .*LookaheadParams"):
        tx.update({"w": jnp.ones(3)}, state, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"needs the parameters"):
        tx.update({"w": jnp.ones(3)}, state)
    with pytest.raises(ValueError, match=r"equal shapes; got \(2,\) and \(3,\) at 'w'"):
        tx.update({"w": jnp.ones(2)}, state, params)
    with pytest.raises(ValueError, match="updates and the fast parameters must have one tree structure"):
        tx.update(params, state, params)
    for wrong in ({"sync_period": 0}, {"slow_step_size": 1.5}, {"reset_state": 2}):
        with pytest.raises((ValueError, TypeError), match=f"lookahead: argument '{next(iter(wrong))}'"):
            gf.lookahead(**{"fast_optimizer": gf.sgd(0.1), "sync_period": 2, "slow_step_size": 0.5, **wrong})
