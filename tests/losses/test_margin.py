"""Hinges, perceptrons and sparsemax: kinks, leading dimensions and exact zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare, sparsemax

RNG = np.random.default_rng(3)
MULTICLASS = [
    jax.jit(losses.multiclass_hinge_loss),
    jax.jit(losses.multiclass_perceptron_loss),
    jax.jit(losses.multiclass_sparsemax_loss),
]
over_multiclass = pytest.mark.parametrize("loss", MULTICLASS, ids=lambda loss: loss.__name__)


@pytest.mark.parametrize("loss", [losses.hinge_loss, losses.perceptron_loss])
def test_one_target_serves_all_scores(loss: Any) -> None:
    x = jnp.asarray([-2.0, 0.5, 3.0], jnp.float32)
    compare(loss(x, -1), loss(x, -jnp.ones(3, jnp.float32)), rtol=0)
    compare(loss(x, jnp.asarray([1, -1, 1])), [loss(x[0], 1), loss(x[1], -1), loss(x[2], 1)], rtol=0)


def test_a_perceptron_that_starts_at_zero_learns() -> None:
    assert jax.grad(losses.perceptron_loss)(0.0, 1.0) == -0.5
    assert jax.grad(losses.hinge_loss)(0.0, 1.0) == -1.0
    assert jax.grad(losses.hinge_loss)(2.0, 1.0) == 0.0


@over_multiclass
def test_any_leading_dimensions(loss: Any) -> None:
    x = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
    y = jnp.asarray(RNG.integers(0, 4, (2, 3)))
    flat = loss(x.reshape(6, 4), y.reshape(6))
    compare(loss(x, y), flat.reshape(2, 3), rtol=1e-6)
    compare(loss(x[0, 0], y[0, 0]), flat[0], rtol=1e-6)
    assert loss(x[:0], y[:0]).shape == (0, 3)
    for scores in (x[0, 0, 0], x[0, 0, :0]):
        with pytest.raises(
            ValueError, match=r"argument 'scores' must have shape \[..., classes\], with a class"
        ):
            loss(scores, y[0, 0])


@over_multiclass
def test_a_class_at_minus_infinity_takes_no_part(loss: Any) -> None:
    x = jnp.asarray([[0.3, 0.5, -jnp.inf, -0.1]], jnp.float32)
    y = jnp.asarray([0])
    compare(loss(x, y), loss(x[:, [0, 1, 3]], y), rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, y).sum())(x)
    assert np.all(np.isfinite(gradient))
    assert gradient[0, 2] == 0


@over_multiclass
def test_large_scores_of_the_right_class_cost_nothing(loss: Any) -> None:
    x = jnp.asarray([[1e4, 0.0, -1e4], [3e4, 1e4, 1e4], [-1e4, 0.0, 1e4]], jnp.float32)
    compare(loss(x, jnp.asarray([0, 0, 0])), [0, 0, 2e4], rtol=1e-4)


def test_the_gradient_of_sparsemax_is_prediction_minus_label() -> None:
    loss = MULTICLASS[2]
    x = (RNG.normal(size=(20, 5)) * 2).astype(np.float32)
    y = RNG.integers(0, 5, 20)
    gradient = jax.jit(jax.grad(lambda x: loss(x, y).sum()))(x)
    compare(
        gradient,
        [sparsemax(row) - np.eye(5)[k] for row, k in zip(x.astype(float), y, strict=True)],
        atol=1e-6,
    )
    assert loss(x, y).min() >= 0
    assert loss(x, x.argmax(-1)).min() >= 0


def test_binary_sparsemax_is_flat_quadratic_linear() -> None:
    z = jnp.asarray([-1e4, -1.0, -0.5, 0.0, 1.0, 3.0, 1e4], jnp.float32)
    compare(losses.sparsemax_loss(z, jnp.zeros(7, int)), [0, 0, 1 / 16, 1 / 4, 1, 3, 1e4], rtol=1e-6)
    compare(losses.sparsemax_loss(z, jnp.zeros(7)), [0, 0, 1 / 16, 1 / 4, 1, 3, 1e4], rtol=1e-6)
    compare(losses.sparsemax_loss(-z, jnp.ones(7, bool)), [0, 0, 1 / 16, 1 / 4, 1, 3, 1e4], rtol=1e-6)
    slope = jax.vmap(jax.grad(losses.sparsemax_loss))(z, jnp.zeros(7, int))
    compare(slope, [0, 0, 1 / 4, 1 / 2, 1, 1, 1], rtol=1e-6)


def test_gaps_beyond_the_largest_number_are_infinite_losses() -> None:
    x = jnp.asarray([-3e38, 0.0, 3e38], jnp.float32)
    value, slope = jax.value_and_grad(losses.multiclass_sparsemax_loss)(x, 0)
    assert value == np.inf
    compare(slope, [-1, 0, 1], rtol=0)


@over_multiclass
def test_a_nan_shows_in_every_one_of_many_rows(loss: Any) -> None:
    """A maximum of many rows is not NaN on every CPU."""
    x = jnp.zeros((4000, 10), jnp.float32).at[::2, 9].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(loss(x, jnp.zeros(4000, int))), np.arange(4000) % 2 == 0)


@pytest.mark.parametrize("loss", [losses.hinge_loss, losses.perceptron_loss])
def test_a_nan_shows_in_a_mean_of_many_losses(loss: Any) -> None:
    """XLA's maximum in a kernel that adds up is not NaN on every CPU."""
    x = jnp.zeros((64, 64)).at[3, 4].set(jnp.nan)
    assert np.isnan(jax.jit(lambda x: loss(x, jnp.ones((64, 64))).mean())(x))
