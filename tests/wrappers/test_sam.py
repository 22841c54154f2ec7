"""sam: rounds in one call and in several, and gradients of zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

HESSIAN = np.diag([1.0, 4.0, 0.25])
START = {"w": jnp.asarray([1.0, -2.0, 0.5])}


def gradient(params: Any, i: int = 0) -> Any:
    return {"w": jnp.asarray(HESSIAN, jnp.float32) @ params["w"]}


def by_hand(climbs: int, rho: float, rounds: int) -> np.ndarray:
    """Foret et al. 2020, Algorithm 1, with as many ascent steps as wanted."""
    w = np.asarray(START["w"], np.float64)
    for _ in range(rounds):
        v = w
        for _ in range(climbs):
            g = HESSIAN @ v
            v = v + rho * g / np.linalg.norm(g)
        w = w - 0.1 * HESSIAN @ v
    return w


def make(**options: Any) -> Any:
    return gf.sam(gf.sgd(0.1), gf.chain(gf.normalize(), gf.sgd(0.05)), **options)


@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("opaque", [False, True])
def test_the_papers_algorithm(period: int, opaque: bool) -> None:
    tx = make(sync_period=period, opaque_mode=opaque)
    params, state = START, tx.init(START)
    extra = {"grad_fn": gradient} if opaque else {}
    for _ in range(4 if opaque else 4 * period):
        updates, state = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))(gradient(params), state, params)
        params = gf.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], by_hand(period - 1, 0.05, 4), rtol=1e-5)
    assert int(state.steps_since_sync) == 0


def test_only_the_last_call_moves_the_optimizer_and_a_reset_the_adversary() -> None:
    for reset in (True, False):
        tx = gf.sam(gf.adam(0.1), gf.sgd(0.1, momentum=0.9), 2, reset_state=reset)
        params, state = START, tx.init(START)
        counts, traces = [], []
        for _ in range(4):
            updates, state = tx.update(gradient(params), state, params)
            params = gf.apply_updates(params, updates)
            counts.append(int(state.opt_state[0].count))
            traces.append(float(jnp.abs(state.adv_state[0].trace["w"]).sum()))
        assert counts == [0, 1, 1, 2]
        assert (traces[1] == 0) == reset
        assert traces[0] > 0


def test_gradients_of_zero_do_not_move() -> None:
    zero = {"w": jnp.zeros(3)}
    for opaque in (False, True):
        tx = make(opaque_mode=opaque)
        state, params = tx.init(START), START
        for _ in range(2):
            updates, state = tx.update(zero, state, params, grad_fn=lambda p, i: zero)
            np.testing.assert_array_equal(updates["w"], 0.0)
    updates, _ = gf.normalize().update(zero, gf.NormalizeState(), START)
    np.testing.assert_array_equal(updates["w"], 0.0)


def test_gradients_of_other_batches_and_devices() -> None:
    seen: list[int] = []

    def grad_fn(params: Any, i: int) -> Any:
        seen.append(i)
        return gradient(params)

    tx = make(sync_period=3, opaque_mode=True, batch_axis_name="batch")

    def step(scale: jax.Array) -> Any:
        grads = jax.tree.map(lambda g: scale * g, gradient(START))
        updates, _ = tx.update(grads, tx.init(START), START, grad_fn=grad_fn)
        return updates["w"]

    moved = jax.vmap(step, axis_name="batch")(jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(moved[0], moved[1])
    assert seen == [0, 1]


def test_extra_arguments_and_reports_come_through() -> None:
    plateau = gf.reduce_on_plateau()
    tx = gf.chain(gf.sam(gf.chain(plateau, gf.sgd(0.1)), gf.chain(gf.normalize(), gf.sgd(0.1))))
    state, params = tx.init(START), START
    climbed, scales, norms = [], [], []
    for _ in range(2):
        with gf.collecting() as heard:
            updates, state = tx.update(gradient(params), state, params, value=jnp.float32(1))
        params = gf.apply_updates(params, updates)
        values = {name.split(".")[-1]: float(value) for name, value in heard.values.items()}
        climbed.append(values["adversarial"])
        scales.append(values["scale"])
        norms.append(values["norm"])
    assert climbed == [1.0, 0.0]
    assert np.isnan(scales).tolist() == [True, False]
    assert np.isnan(norms).tolist() == [False, True]


def test_mistakes_are_named() -> None:
    tx = make(opaque_mode=True)
    with pytest.raises(TypeError, match="sam: this stage needs the extra argument 'grad_fn'"):
        tx.update(gradient(START), tx.init(START), START)
    with pytest.raises(ValueError, match="the gradients of 'grad_fn' and params must have equal shapes"):
        tx.update(gradient(START), tx.init(START), START, grad_fn=lambda p, i: {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="sam: argument 'sync_period' must be a whole number >= 1"):
        make(sync_period=0)
