"""Losses made from a maximum: known ones come out, and extra arguments go in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare, log_sum_exp

X = jnp.asarray(np.random.default_rng(7).normal(size=(2, 3, 4)), jnp.float32)
cross_entropy = jax.jit(losses.softmax_cross_entropy)
Y = jax.nn.one_hot(jnp.asarray([[0, 1, 2], [3, 0, 1]]), 4)


def test_log_sum_exp_makes_cross_entropy_and_the_maximum_makes_the_perceptron() -> None:
    made = jax.jit(losses.make_fenchel_young_loss(log_sum_exp))
    compare(made(X, Y), cross_entropy(X, Y), rtol=1e-5)
    compare(made(X[0, 0], Y[0, 0]), cross_entropy(X[0, 0], Y[0, 0]), rtol=1e-5)
    gradient = jax.grad(lambda x: made(x, Y).sum())(X)
    compare(gradient, jax.nn.softmax(X) - Y, rtol=1e-5, atol=1e-6)
    compare(
        jax.jit(losses.make_fenchel_young_loss(jnp.max))(X, Y),
        losses.multiclass_perceptron_loss(X, Y.argmax(-1)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_extra_arguments_reach_the_maximum() -> None:
    def smoothed(scores: Any, temperature: Any, *, shift: Any = 0.0) -> Any:
        return temperature * log_sum_exp(scores / temperature) + shift

    made = jax.jit(losses.make_fenchel_young_loss(max_fun=smoothed))
    compare(made(X, Y, 0.5, shift=2.0), 0.5 * cross_entropy(X / 0.5, Y) + 2.0, rtol=1e-5)


def test_mistakes() -> None:
    with pytest.raises(
        TypeError, match="make_fenchel_young_loss: argument 'max_fun' must be a function; got 3"
    ):
        losses.make_fenchel_young_loss(3)
    made = losses.make_fenchel_young_loss(log_sum_exp)
    with pytest.raises(
        ValueError, match=r"fenchel_young_loss: argument 'scores' must have shape \[..., dim\]; got \(\)"
    ):
        made(1.0, 1.0)
    assert made(X.astype(jnp.bfloat16), Y).dtype == jnp.float32
