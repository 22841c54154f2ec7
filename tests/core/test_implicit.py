"""Derivatives of what `minimize` finds: closed forms and finite differences."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._training._implicit import inverse

RNG = np.random.default_rng(1)
X = RNG.normal(size=(30, 4))
Y = X @ [1.0, -2.0, 0.0, 0.5] + 0.1 * RNG.normal(size=30)


@pytest.fixture(autouse=True)
def _float64() -> Any:
    with jax.enable_x64(True):
        yield


def _loss(w: Any, y: Any) -> jax.Array:
    return 0.5 * jnp.mean((X @ w - y) ** 2)


def _finished(x: Any) -> Any:
    jax.effects_barrier()
    return jax.block_until_ready(x)


def _differences(f: Any, at: float) -> np.ndarray:
    step = 1e-5
    return (np.asarray(f(at + step)) - np.asarray(f(at - step))) / (2 * step)


def test_the_elimination_inverts() -> None:
    matrix = RNG.normal(size=(6, 6))
    matrix[0, 0] = 0.0  # needs a pivot
    np.testing.assert_allclose(inverse(jnp.asarray(matrix)) @ matrix, np.eye(6), atol=1e-10)


def test_ridge_is_its_closed_form_in_both_modes() -> None:
    def solution(weight: Any, y: Any) -> Any:
        loss = lambda w: _loss(w, y) + weight / 2 * jnp.sum(w**2)  # noqa: E731  # closes over both
        return gf.minimize(loss, jnp.zeros(4), tol=1e-10, implicit=True).params

    hessian = X.T @ X / 30 + 0.3 * np.eye(4)
    by_y = np.linalg.solve(hessian, X.T / 30)
    by_weight = -np.linalg.solve(hessian, by_y @ Y)
    np.testing.assert_allclose(solution(0.3, jnp.asarray(Y)), by_y @ Y, rtol=1e-8)
    np.testing.assert_allclose(jax.jacrev(solution, 1)(0.3, jnp.asarray(Y)), by_y, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jacfwd(solution)(0.3, jnp.asarray(Y)), by_weight, rtol=1e-7)


def test_the_lasso_moves_with_its_weight_on_its_support() -> None:
    def solve(weight: Any) -> Any:
        penalty = gf.l1_penalty(weight)
        return gf.minimize(_loss, jnp.zeros(4), prox=penalty, tol=1e-11, args=(Y,), implicit=True)

    w = np.asarray(solve(0.2).params)
    held = w == 0
    assert held.any()
    active = ~held
    expected = np.zeros(4)
    gram = X[:, active].T @ X[:, active] / 30
    expected[active] = -np.linalg.solve(gram, np.sign(w[active]))
    derivative = jax.jacrev(lambda weight: solve(weight).params)(0.2)
    np.testing.assert_allclose(derivative, expected, rtol=1e-6, atol=1e-12)
    # The value's derivative is that of the penalty alone, at the solution.
    np.testing.assert_allclose(jax.grad(lambda weight: solve(weight).value)(0.2), np.abs(w).sum(), rtol=1e-7)


def test_bounds_and_what_is_free_between_them() -> None:
    def solution(upper: Any) -> Any:
        bounds = (None, upper)
        return gf.minimize(_loss, jnp.zeros(4), tol=1e-10, args=(Y,), bounds=bounds, implicit=True).params

    assert solution(0.4)[0] == 0.4
    np.testing.assert_allclose(jax.jacfwd(solution)(0.4), _differences(solution, 0.4), rtol=1e-5, atol=1e-8)


def test_a_singular_system_gives_nan_and_a_warning() -> None:
    def solution(t: Any) -> Any:
        loss = lambda w: (w[0] + w[1] - t) ** 2  # noqa: E731  # a line of minima
        return gf.minimize(loss, jnp.zeros(2), implicit=True).params

    np.testing.assert_allclose(jnp.sum(solution(1.0)), 1.0, rtol=1e-5)
    with pytest.warns(RuntimeWarning, match="singular"):
        derivative = _finished(jax.jacfwd(solution)(1.0))
    assert np.all(np.isnan(derivative))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jacfwd(lambda t: gf.minimize(lambda w: (w - t) ** 2, 0.0, implicit=True).params)(1.0)
        jax.effects_barrier()


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="minimize: parameters must be real with 'implicit'"):
        gf.minimize(lambda z: jnp.abs(z) ** 2, jnp.ones((), complex), implicit=True)
