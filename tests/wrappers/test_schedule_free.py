"""schedule_free: averages, warm-up, evaluation wherever the state is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32), "b": jnp.ones(3)}
GRADS = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS) for _ in range(6)]


def run(tx: Any, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    state = tx.init(params)
    for g in grads:
        updates, state = jax.jit(tx.update)(g, state, params)
        params = gf.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("b1", [0.5, 1.0])
def test_the_papers_equations_with_warm_up(power: float, b1: float) -> None:
    with jax.enable_x64(True):
        start = {"w": jnp.asarray(np.arange(3.0))}
        grads = [{"w": jnp.asarray(RNG.normal(size=3))} for _ in range(6)]
        tx = gf.schedule_free_sgd(0.2, warmup_steps=4, b1=b1, weight_decay=0.1, weight_lr_power=power)
        params, state = run(tx, start, grads)
        average = gf.schedule_free_eval_params(state, params)
        y = x = z = np.arange(3.0)
        total, largest = 0.0, 0.0
        for t, g in enumerate(grads, start=1):
            rate = 0.2 * min(1, t / 4)
            largest = max(largest, rate)
            z = z - rate * (np.asarray(g["w"]) + 0.1 * y)
            total += largest**power
            x = x + largest**power / total * (z - x)
            y = b1 * x + (1 - b1) * z
        np.testing.assert_allclose(params["w"], y, rtol=1e-12)
        np.testing.assert_allclose(average["w"], x, rtol=1e-12)
        np.testing.assert_allclose(gf.tree.get(state, "z")["w"], z, rtol=1e-12)


def test_the_schedule_is_asked_at_the_steps_taken_and_a_rate_of_zero_is_harmless() -> None:
    asked = jnp.asarray([0.0, 0.5, 1.0])
    tx = gf.schedule_free(gf.sgd(lambda count: asked[count]), lambda count: asked[count])
    params, state = run(tx, PARAMS, GRADS[:1])
    np.testing.assert_allclose(params["w"], PARAMS["w"], rtol=1e-6)
    assert float(state.max_lr) == 0.0
    assert int(state.step_count) == 1
    params, state = run(tx, PARAMS, GRADS[:3])
    assert float(state.max_lr) == 1.0
    assert float(state.weight_sum) == 1.25
    assert isinstance(state, gf.ScheduleFreeState)
    assert jax.tree.structure(state) == jax.tree.structure(gf.schedule_free(gf.sgd(0.1), 0.1).init(PARAMS))


def test_a_scheduled_mixture_is_undone_by_the_one_that_made_it() -> None:
    """x is solved for with the b1 of the last step, and mixed with this step's."""
    steps = jnp.asarray([0.9, 0.5, 0.7])
    tx = gf.schedule_free(gf.sgd(0.1), 0.1, b1=lambda count: steps[count])
    params, state = run(tx, PARAMS, GRADS[:3])
    constant = gf.schedule_free(gf.sgd(0.1), 0.1, b1=0.9)
    first, _ = run(constant, PARAMS, GRADS[:1])
    x = z = PARAMS["w"].astype(float)
    for t in range(3):
        z = z - 0.1 * GRADS[t]["w"]
        x = x + (z - x) / (t + 1)
        if t == 0:
            np.testing.assert_allclose(first["w"], 0.9 * x + 0.1 * z, rtol=1e-5)
    np.testing.assert_allclose(params["w"], 0.7 * x + 0.3 * z, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gf.schedule_free_eval_params(state, params)["w"], x, rtol=1e-4, atol=1e-6)


def test_evaluation_finds_the_state_anywhere() -> None:
    inner = gf.schedule_free_adamw(0.1)
    expected_params, expected_state = run(inner, PARAMS, GRADS)
    expected = gf.schedule_free_eval_params(expected_state, expected_params)
    for tx in (gf.chain(gf.identity(), gf.apply_if_finite(inner, 2)), gf.with_metrics(inner)):
        params, state = run(tx, PARAMS, GRADS)
        actual = gf.schedule_free_eval_params(state, params)
        np.testing.assert_allclose(actual["w"], expected["w"], rtol=1e-6)


def test_leaves_without_an_average_stay_and_several_states_share_the_tree() -> None:
    def matrices(p: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, p)

    inner = gf.schedule_free_sgd(0.1)
    whole, state = run(inner, PARAMS, GRADS)
    expected = gf.schedule_free_eval_params(state, whole)
    one = gf.masked(inner, matrices, elsewhere="zero")
    params, state = run(one, PARAMS, GRADS)
    actual = gf.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(actual["w"], expected["w"], rtol=1e-6)
    assert actual["b"] is params["b"]
    both = gf.chain(one, gf.masked(gf.schedule_free_sgd(0.1), {"w": False, "b": True}))
    _, state = run(both, PARAMS, GRADS)
    parts = gf.schedule_free_eval_params(state, whole)
    np.testing.assert_allclose(parts["w"], expected["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="two averages for the same leaf"):
        gf.schedule_free_eval_params((state, state), whole)


def test_half_precision_parameters_keep_their_steps_in_float32() -> None:
    params = {"w": jnp.ones(3, jnp.bfloat16), "none": None}
    state = gf.schedule_free_sgd(0.1).init(params)
    assert state.z["w"].dtype == jnp.float32
    average = gf.schedule_free_eval_params(state, params)
    assert (average["w"].dtype, average["none"]) == (jnp.bfloat16, None)
    assert gf.schedule_free_sgd(0.1, state_dtype=jnp.bfloat16).init(params).z["w"].dtype == jnp.bfloat16


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"schedule_free: argument 'b1' must be a number in \(0, 1\]"):
        gf.schedule_free(gf.sgd(0.1), 0.1, b1=0.0)
    traced = jax.jit(lambda b1: run(gf.schedule_free(gf.sgd(0.1), 0.1, b1=b1), PARAMS, GRADS)[0])(0.0)
    assert np.all(np.isfinite(traced["w"]))
    state = gf.adam(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=r"state of a schedule_free.*The order is \(state, params\)"):
        gf.schedule_free_eval_params(state, PARAMS)
    state = gf.schedule_free_sgd(0.1).init(PARAMS)
    with pytest.raises(ValueError, match="'params' must be the tree that 'state' was made for"):
        gf.schedule_free_eval_params(state, {"w": PARAMS["w"]})
    with pytest.raises(ValueError, match="schedule_free_sgd: argument 'warmup_steps'"):
        gf.schedule_free_sgd(warmup_steps=0)
