"""Penalties and bounds on data sets: the solutions of SciPy and scikit-learn, and their conditions."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks import solvers


@pytest.fixture(autouse=True)
def _float64() -> Any:
    with jax.enable_x64(True):
        yield


def test_lassos_and_elastic_nets_of_the_diabetes_data() -> None:
    x, y = importlib.import_module("sklearn.datasets").load_diabetes(return_X_y=True)
    x, y = x - x.mean(axis=0), y - y.mean()
    gram, moment = x.T @ x / y.size, x.T @ y / y.size
    weights, shares = np.array([2.0, 0.1, 0.01, 0.001]), np.array([1.0, 1.0, 0.5, 0.9])

    def solve(l1: Any, l2: Any) -> Any:
        penalty = gf.elastic_net_penalty(l1, l2)
        loss = lambda w: 0.5 * w @ gram @ w - moment @ w  # noqa: E731
        return gf.minimize(loss, jnp.zeros(10), prox=penalty, tol=1e-12, max_steps=20000).params

    found = jax.vmap(solve)(weights * shares, weights * (1 - shares))
    net = importlib.import_module("sklearn.linear_model").ElasticNet
    for w, alpha, share in zip(found, weights, shares, strict=True):
        peer = net(alpha=alpha, l1_ratio=share, fit_intercept=False, tol=1e-15, max_iter=10**4).fit(x, y)
        np.testing.assert_allclose(w, peer.coef_, rtol=1e-6, atol=1e-6)
        assert np.array_equal(w == 0, peer.coef_ == 0)


def test_weights_in_a_box_on_the_breast_cancer_data() -> None:
    loss, start, (low, high) = solvers.breast_cancer()
    result = gf.minimize(loss, start, bounds=(low, high), tol=1e-6)
    assert result.status == "converged"
    w, slope = np.asarray(result.params), np.asarray(jax.grad(loss)(result.params))
    assert (w == low).any()
    assert (w == high).any()
    assert np.all(slope[w == low] > 0)
    assert np.all(slope[w == high] < 0)
    np.testing.assert_allclose(slope[(w > low) & (w < high)], 0, atol=1e-6)
    peer = solvers.scipy_bounded(loss, start, (low, high))()
    np.testing.assert_allclose(w, peer.x, atol=1e-6)


def test_nonnegative_factors_of_digits() -> None:
    digits, *start = solvers.factors_of_digits()
    found = solvers.nonnegative_factors(digits, *start, rounds=2500)
    w, h = map(np.asarray, found)
    rest = w @ h - np.asarray(digits)
    for factor, slope in ((w, rest @ h.T), (h, w.T @ rest)):
        assert factor.min() == 0
        np.testing.assert_allclose(np.minimum(factor, slope) / slope.max(), 0, atol=1e-4)
    peer = solvers.sklearn_factors(digits, *start)
    assert solvers.half_squared_error(digits, found) <= solvers.half_squared_error(digits, peer)
