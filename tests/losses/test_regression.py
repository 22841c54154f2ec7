"""Losses of a difference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare

ALL = [losses.squared_error, losses.l2_loss, losses.huber_loss, losses.log_cosh]
over_all = pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
X = jnp.asarray([-3.0, -0.5, 0.0, 0.25, 2.0], jnp.float32)


@over_all
def test_no_targets_are_zeros_and_one_target_serves_all(loss: Any) -> None:
    compare(loss(X), loss(X, jnp.zeros(5, jnp.float32)), rtol=0)
    compare(loss(X, 2.0), loss(X, jnp.full(5, 2.0, jnp.float32)), rtol=0)
    compare(loss(X, 2), loss(X, 2.0), rtol=0)
    compare(loss(X, jnp.arange(5)), loss(X, jnp.arange(5.0)), rtol=0)


@over_all
def test_python_numbers_do_not_widen(loss: Any) -> None:
    assert loss(X.astype(jnp.bfloat16), 2.0).dtype == jnp.bfloat16
    assert loss(X.astype(jnp.bfloat16), jnp.arange(5)).dtype == jnp.bfloat16
    assert loss(1.0, 2).dtype == jnp.float32
    assert not loss(1.0, 2).weak_type


@over_all
def test_the_gradient_at_zero_error_is_zero(loss: Any) -> None:
    gradient = jax.grad(lambda x: loss(x, x * 0.0 + 1.0).sum())(jnp.ones(3, jnp.float32))
    assert not np.any(gradient)


def test_the_gradient_of_huber_is_the_clipped_error() -> None:
    delta = 0.5
    gradient = jax.grad(lambda x: losses.huber_loss(x, delta=delta).sum())
    points = jnp.asarray([-1e30, -2.0, -0.5, -0.1, 0.0, 0.1, 0.5, 2.0, 1e30, jnp.inf], jnp.float32)
    compare(gradient(points), np.clip(points, -delta, delta), rtol=1e-6)


def test_errors_near_and_beyond_the_largest_number() -> None:
    for error in (2e19, -2e19, 3e38, -3e38):
        compare(jax.grad(losses.l2_loss)(jnp.float32(error)), error, rtol=1e-6)
    value, (slope, by_delta) = jax.value_and_grad(
        lambda x, d: losses.huber_loss(x, jnp.float32(-3e38), delta=d), (0, 1)
    )(jnp.float32(3e38), 0.0)
    assert value == slope == 0
    assert by_delta > 3e38
    assert np.isnan(losses.huber_loss(jnp.nan, delta=0.0))
    assert losses.huber_loss(jnp.inf) == jnp.inf


def test_huber_without_a_limit_is_half_the_squared_error() -> None:
    compare(losses.huber_loss(X, delta=jnp.inf), losses.l2_loss(X), rtol=0)
    for delta in (1e9, jnp.inf):
        compare(jax.grad(lambda x, d=delta: losses.huber_loss(x, delta=d).sum())(X), X, rtol=0)
    assert losses.huber_loss(jnp.inf, delta=jnp.inf) == jnp.inf


def test_huber_takes_one_delta_for_each_element_and_differentiates_it() -> None:
    deltas = jnp.asarray([0.1, 1.0, 1.0, 0.5, 0.5], jnp.float32)
    each = [losses.huber_loss(x, delta=d) for x, d in zip(X, deltas, strict=True)]
    compare(losses.huber_loss(X, delta=deltas), each, rtol=0)
    slope = jax.grad(lambda d: losses.huber_loss(X, delta=d).sum())(1.0)
    compare(slope, np.maximum(np.abs(X) - 1.0, 0).sum(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"huber_loss: argument 'delta' must lie in \[0.0, inf\]; got -1"):
        losses.huber_loss(X, delta=-1)
    with pytest.raises(ValueError, match=r"argument 'delta' must lie in \[0.0, inf\]; got -1.0"):
        losses.huber_loss(X, delta=np.asarray(-1.0))
    with pytest.raises(ValueError, match=r"argument 'delta' must lie in \[0.0, inf\]; got float64\[5\]"):
        losses.huber_loss(X, delta=np.asarray([1.0, 1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(
        ValueError, match=r"huber_loss: argument 'delta' must be a scalar or broadcast to \(5,\); got \(3,\)"
    ):
        losses.huber_loss(X, delta=jnp.ones(3))


def test_log_cosh_keeps_its_digits_everywhere() -> None:
    x = np.concatenate([np.geomspace(1e-18, 1e4, 200), [0.999999, 1.0, 1.000001, 1e30, 3e38]])
    with np.errstate(over="ignore"):
        exact = np.where(x < 1e-3, x**2 / 2 - x**4 / 12, x + np.log1p(np.exp(-2 * x)) - np.log(2))
    for sign in (1, -1):
        compare(losses.log_cosh(jnp.asarray(sign * x, jnp.float32)), exact, rtol=1e-6)
    gradient = jax.vmap(jax.grad(losses.log_cosh))(jnp.asarray(x, jnp.float32))
    compare(gradient, np.tanh(x), rtol=1e-6)
