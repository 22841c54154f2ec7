"""Steps that end in a proximal operator or in a set, against their equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

A = np.random.default_rng(1).normal(size=(8, 4))
B = A @ [1.0, 0.0, -2.0, 0.0] + 0.1
LIPSCHITZ = float(np.linalg.norm(A, 2) ** 2)


def _loss(p: Any) -> jax.Array:
    return 0.5 * jnp.sum((jnp.asarray(A, p.dtype) @ p - jnp.asarray(B, p.dtype)) ** 2)


def _soft(x: np.ndarray, by: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - by, 0)


def _points(tx: Any, steps: int) -> list[Any]:
    params = jnp.ones(4)
    state = tx.init(params)
    step = gf.make_step(_loss, tx)
    points = []
    for _ in range(steps):
        params, state, _ = step(params, state)
        points.append((params, gf.eval_params(state, params)))
    return points


def test_proximal_gradient_descent() -> None:
    with jax.enable_x64(True):
        rate, weight = 0.5 / LIPSCHITZ, 3.0
        points = _points(gf.proximal(gf.sgd(rate), gf.l1_penalty(weight)), 3)
        p = np.ones(4)
        for params, _ in points:
            p = _soft(p - rate * (A.T @ (A @ p - B)), rate * weight)
            np.testing.assert_allclose(params, p, rtol=1e-6, atol=1e-8)  # the reported rate is float32


def test_a_step_that_is_given() -> None:
    tx = gf.proximal(gf.scale(-1.0), lambda p, step: p - step, 0.25)
    np.testing.assert_allclose(tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.zeros(2))[0], -1.25)
    scheduled = gf.proximal(
        gf.sgd(gf.piecewise_constant_schedule(1.0, {1: 0.5})), lambda p, step: p * 0 + step
    )
    state = scheduled.init(jnp.zeros(()))
    for expected in (1.0, 0.5):
        u, state = scheduled.update(jnp.zeros(()), state, jnp.zeros(()))
        assert float(u) == expected


def test_under_momentum_a_step_is_the_sum_of_its_rates() -> None:
    rate, weight = 0.05 / LIPSCHITZ, 3.0
    tx = gf.proximal(gf.sgd(rate, momentum=0.9), gf.l1_penalty(weight), rate / (1 - 0.9))
    p = np.asarray(jax.lax.fori_loop(0, 2000, lambda _, s: gf.make_step(_loss, tx)(*s)[:2], _begin(tx))[0])
    gradient = A.T @ (A @ p - B)
    np.testing.assert_allclose(p, _soft(p - gradient, weight), atol=1e-4)  # the condition of a minimum


def _begin(tx: Any) -> tuple[Any, Any]:
    return jnp.ones(4), tx.init(jnp.ones(4))


def test_the_rate_must_be_one() -> None:
    none, two = gf.scale(-1.0), gf.partition({"a": gf.sgd(0.1), "b": gf.sgd(0.2)})
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    for inner, words in ((none, "no learning rate"), (two, "rates of")):
        tx = gf.proximal(inner, gf.l1_penalty(0.1))
        with pytest.raises(ValueError, match=f"proximal: argument 'step' must be given.*{words}"):
            tx.update(params, tx.init(params), params)


def test_projected_stays_in_its_set() -> None:
    tx = gf.projected(gf.adam(0.3), gf.projections.projection_simplex)
    for params, _ in _points(tx, 5):
        np.testing.assert_allclose(jnp.sum(params), 1, rtol=1e-5)
        assert bool(jnp.all(params >= 0))
    inside = gf.projected(gf.sgd(0.1), gf.box_constraint(upper=0.5))
    assert float(jnp.max(_points(inside, 1)[0][0])) <= 0.5


def test_fista_is_its_equations() -> None:
    with jax.enable_x64(True):
        rate, weight = 1 / LIPSCHITZ, 0.5
        points = _points(gf.fista(rate, gf.l1_penalty(weight), restart=False), 6)
        p = last = np.ones(4)
        t = 1.0
        for params, point in points:
            x = _soft(p - rate * (A.T @ (A @ p - B)), rate * weight)
            t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
            p, last, t = x + (t - 1) / t_next * (x - last), x, t_next
            np.testing.assert_allclose(point, x, rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(params, p, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_the_search_finds_the_scale_and_the_lasso(scale: float) -> None:
    """At the minimum the gradient is -weight * sign(x), and at most `weight` where x is zero."""
    with jax.enable_x64(True):
        weight = 3.0
        loss = lambda p: scale * _loss(p)  # noqa: E731
        tx = gf.fista(penalty=gf.l1_penalty(weight * scale))
        step = jax.jit(gf.make_step(loss, tx))
        params = jnp.ones(4)
        state = tx.init(params)
        for _ in range(150):
            params, state, _ = step(params, state)
        x = np.asarray(gf.eval_params(state, params))
        slope = A.T @ (A @ x - B)
        assert 0 < np.sum(x == 0) < 4
        np.testing.assert_allclose(slope[x != 0], -weight * np.sign(x[x != 0]), rtol=1e-6)
        assert np.all(np.abs(slope[x == 0]) <= weight)
        assert 0.4 / LIPSCHITZ <= float(state.learning_rate) * scale <= 2.1 / np.linalg.norm(A, -2) ** 2


def test_a_search_that_fails_takes_no_step_and_forgets_it() -> None:
    tx = gf.fista(max_backtracking_steps=2)
    params = jnp.ones(3)
    state = tx.init(params)
    far = jnp.full(3, 1e30)
    u, state = tx.update(far, state, params, value=0.0, value_fn=lambda p: jnp.sum(p**2) * 1e9)
    np.testing.assert_array_equal(u, 0)
    assert float(state.learning_rate) == 1.0


@pytest.mark.parametrize(("momentum", "curvature", "kept"), [(1, 2.0, 0.4), (1, 3.0, 0.2), (3, 2.0, 0.2)])
def test_after_a_restart_a_longer_step_comes_next_where_it_would_have_passed(
    momentum: float, curvature: float, kept: float
) -> None:
    params = jnp.ones(2)
    state = gf.fista().init(params)
    state = state._replace(
        count=jnp.asarray(5, jnp.int32), momentum=jnp.float32(momentum), learning_rate=jnp.float32(0.2)
    )
    given = {"value": curvature, "value_fn": lambda p: curvature / 2 * jnp.sum(p**2)}
    _, new = gf.fista().update(curvature * params, state, params, **given)
    assert new.info.num_linesearch_steps == 1
    np.testing.assert_allclose(new.point, 1 - 0.2 * curvature, rtol=1e-6)
    np.testing.assert_allclose(new.learning_rate, kept, rtol=1e-6)
