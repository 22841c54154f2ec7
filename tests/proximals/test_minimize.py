"""`minimize` with penalties and sets, against optimality conditions and closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 8))
Y = X[:, :3] @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=60)


@pytest.fixture(autouse=True)
def _float64() -> Any:
    with jax.enable_x64(True):
        yield


def _loss(w: Any, x: Any = X, y: Any = Y) -> jax.Array:
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def _slope(w: Any) -> np.ndarray:
    return X.T @ (X @ np.asarray(w) - Y) / len(Y)


def test_the_lasso() -> None:
    weight = 0.1
    result = gf.minimize(_loss, jnp.zeros(8), prox=gf.l1_penalty(weight), tol=1e-9)
    w = np.asarray(result.params)
    assert result.status == "converged"
    assert 2 <= np.sum(w != 0) <= 4
    np.testing.assert_allclose(_slope(w)[w != 0], -weight * np.sign(w[w != 0]), atol=1e-8)
    assert np.all(np.abs(_slope(w)[w == 0]) <= weight)
    np.testing.assert_allclose(result.value, _loss(w) + weight * np.abs(w).sum(), rtol=1e-12)


def test_a_path_of_penalties_is_one_program() -> None:
    weights = jnp.asarray([1e-3, 0.01, 0.1, 0.5, 2.0, 5.0])
    path = jax.vmap(lambda w: gf.minimize(_loss, jnp.zeros(8), prox=gf.l1_penalty(w), tol=1e-9))(weights)
    assert set(path.status) == {"converged"}
    alone = gf.minimize(_loss, jnp.zeros(8), prox=gf.l1_penalty(0.1), tol=1e-9)
    np.testing.assert_allclose(path.params[2], alone.params, atol=1e-8)
    counts = np.sum(np.asarray(path.params) != 0, axis=1)
    assert counts[0] == 8
    assert counts[-1] == 0


def test_ridge_is_its_closed_form() -> None:
    result = gf.minimize(_loss, jnp.zeros(8), prox=gf.ridge_penalty(0.3), tol=1e-10)
    expected = np.linalg.solve(X.T @ X / len(Y) + 0.3 * np.eye(8), X.T @ Y / len(Y))
    np.testing.assert_allclose(result.params, expected, atol=1e-8)


def test_bounds() -> None:
    lower, upper = np.full(8, -0.5), np.full(8, np.inf)
    upper[0] = 0.25
    result = gf.minimize(_loss, jnp.zeros(8), prox=gf.box_constraint(lower, upper), tol=1e-10)
    w, slope = np.asarray(result.params), _slope(result.params)
    assert result.status == "converged"
    assert w[0] == 0.25
    assert w[1] == -0.5
    inside = (w > lower) & (w < upper)
    np.testing.assert_allclose(slope[inside], 0, atol=1e-9)
    assert slope[0] < 0
    assert slope[1] > 0


def test_another_optimizer_has_the_penalty_after_its_steps() -> None:
    result = gf.minimize(_loss, jnp.zeros(8), gf.sgd(0.2), 3000, 1e-8, prox=gf.l1_penalty(0.1))
    best = gf.minimize(_loss, jnp.zeros(8), prox=gf.l1_penalty(0.1), tol=1e-9)
    assert result.status == "converged"
    np.testing.assert_allclose(result.params, best.params, atol=1e-6)


def test_single_precision_ends_converged() -> None:
    x, y = (jnp.asarray(a, jnp.float32) for a in (X, Y))
    start = jnp.zeros(8, jnp.float32)
    result = gf.minimize(_loss, start, prox=gf.l1_penalty(0.1), args=(x, y), tol=1e-5)
    assert result.status == "converged"
    assert result.params.dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "tol"), [("float64", 1e-12), ("float32", 1e-5)])
def test_a_lasso_of_more_weights_than_rows_converges_at_its_solution(dtype: str, tol: float) -> None:
    """Near the end, a value's rounding is larger than what a step changes in it."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 200))
    y = x[:, :3] @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=50)
    args = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    result = gf.minimize(_loss, jnp.zeros(200, dtype), tol=tol, prox=gf.l1_penalty(0.01), args=args)
    assert result.status == "converged"
    # The steps go on from an extrapolated point, which is nearer to its goal than the solution.
    assert result.gradient_norm <= 1.01 * tol
