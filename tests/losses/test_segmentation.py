"""Overlap: shapes, weights, reductions, and empty regions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import IMAGES, MASKS, compare, dice_per_class, generalized_dice, log_softmax

X, T = jnp.asarray(IMAGES, jnp.float32), jnp.asarray(MASKS, jnp.float32)
P = np.exp(log_softmax(IMAGES))
EACH = dice_per_class(P, MASKS, 1.0, 0.5, 0.5)


def test_reductions_weights_and_background() -> None:
    compare(losses.dice_loss(X, T, reduction="none"), EACH, rtol=1e-5)
    compare(losses.dice_loss(X, T, reduction="sum"), EACH.sum(-1), rtol=1e-5)
    compare(losses.dice_loss(X, T), EACH.mean(-1), rtol=1e-5)
    weights = np.arange(5.0)
    compare(losses.dice_loss(X, T, class_weights=weights, reduction="none"), EACH * weights, rtol=1e-5)
    compare(losses.dice_loss(X, T, class_weights=[0, 1, 2, 3, 4]), (EACH * weights).mean(-1), rtol=1e-5)
    compare(losses.dice_loss(X, T, ignore_background=True), EACH[:, 1:].mean(-1), rtol=1e-5)
    compare(
        losses.dice_loss(X, T, smooth=0.0, reduction="none"), dice_per_class(P, MASKS, 0, 0.5, 0.5), rtol=1e-5
    )
    generalized = losses.multiclass_generalized_dice_loss(X, T)
    compare(generalized, generalized_dice(IMAGES, MASKS), rtol=1e-5)


def test_probabilities_are_taken_as_they_are_under_jit_too() -> None:
    p = jnp.asarray(P, jnp.float32)
    compare(jax.jit(lambda p: losses.dice_loss(p, T, apply_softmax=False))(p), EACH.mean(-1), rtol=1e-5)
    compare(
        losses.multiclass_generalized_dice_loss(p, T, apply_softmax=False),
        generalized_dice(IMAGES, MASKS),
        rtol=1e-5,
    )
    one = dice_per_class(P[..., :1], MASKS[..., :1], 1.0, 0.5, 0.5)[:, 0]
    compare(losses.binary_dice_loss(p[..., 0], T[..., 0], apply_sigmoid=False), one, rtol=1e-5)


def test_axes_to_sum_over() -> None:
    both = P.reshape(1, -1, 5), MASKS.reshape(1, -1, 5)
    whole = dice_per_class(*both, 1.0, 0.5, 0.5)[0]
    for axis in ((0, 1, 2), (-4, -3, -2)):
        compare(losses.dice_loss(X, T, axis=axis, reduction="none"), whole, rtol=1e-5)
    assert losses.dice_loss(X, T, axis=1, reduction="none").shape == (2, 4, 5)
    assert losses.dice_loss(X, T, axis=1).shape == (2, 4)
    for axis in (-1, (1, 3)):
        with pytest.raises(
            ValueError, match="dice_loss: argument 'axis' must not name the last axis, the classes"
        ):
            losses.dice_loss(X, T, axis=axis)


def test_the_axis_of_a_single_class_may_be_left_out() -> None:
    x, t = X[..., 0], T[..., 0]
    expected = losses.dice_loss(x[..., None], t[..., None])
    for a, b in ((x, t), (x[..., None], t), (x, t[..., None]), (x[..., None], t[..., None])):
        compare(losses.binary_dice_loss(a, b), expected, rtol=1e-6)
    compare(losses.dice_loss(x[..., None], t), expected, rtol=1e-6)
    compare(losses.dice_loss(x, t[..., None]), expected, rtol=1e-6)
    # Without any spatial axis each example is a region of one pixel.
    assert losses.binary_dice_loss(x[:, 0, 0], t[:, 0, 0]).shape == (2,)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_perfect_and_empty_predictions_cost_nothing(smooth: float) -> None:
    perfect = losses.dice_loss(T * 100 - 50, T, smooth=smooth, reduction="none")
    compare(perfect, 0, atol=1e-6)
    empty = jnp.zeros((2, 3, 1), jnp.float32)

    def f(p: Any) -> Any:
        return losses.binary_dice_loss(p, empty, smooth=smooth, apply_sigmoid=False).sum()

    value, slope = jax.value_and_grad(f)(empty)
    assert value == 0
    assert np.all(np.isfinite(slope))
    assert losses.dice_loss(X * 1e4, T, smooth=smooth).min() >= 0


@pytest.mark.parametrize("loss", [losses.dice_loss, losses.multiclass_generalized_dice_loss])
def test_second_derivatives_of_an_absent_class_without_smoothing(loss: Any) -> None:
    """The loss of an absent class is 1 however small its probabilities are."""
    t = jax.nn.one_hot(jnp.zeros((1, 2), int), 3)
    along = jnp.asarray([[[0.3, -1.0, 0.7], [0.7, -1.0, 0.3]]], jnp.float32)

    @jax.jit
    def run(x: Any) -> Any:
        slope = jax.grad(lambda x: loss(x, t, smooth=0.0).sum())
        return loss(x, t, smooth=0.0).sum(), *jax.jvp(slope, (x,), (along,))

    for high in (12.0, 30.0, 60.0, 80.0):
        x = np.array([[[high, 0.0, 1.0], [high, 1.0, 0.0]]])
        value, *derivatives = run(jnp.asarray(x, jnp.float32))
        # The loss of the first class is near 0; the generalized one gives it almost no weight.
        compare(value, 2 / 3 if loss is losses.dice_loss else 1, rtol=2e-5)
        compare(derivatives, np.zeros((2, 1, 2, 3)), atol=1e-4)


def test_mistakes() -> None:
    with pytest.raises(
        ValueError, match="dice_loss: argument 'reduction' must be 'mean', 'sum' or 'none'; got 'average'"
    ):
        losses.dice_loss(X, T, reduction="average")
    with pytest.raises(
        ValueError,
        match=r"dice_loss: argument 'targets' must have the shape .*\(2, 3, 4, 5\); got \(2, 3, 4, 1\)",
    ):
        losses.dice_loss(X, T[..., 0])
    with pytest.raises(
        ValueError, match=r"dice_loss: argument 'class_weights' must have the shape .*\(5,\); got \(4,\)"
    ):
        losses.dice_loss(X, T, class_weights=jnp.ones(4))
    for name in ("smooth", "alpha", "beta"):
        with pytest.raises(
            ValueError, match=rf"dice_loss: argument '{name}' must lie in \[0.0, inf\]; got -1"
        ):
            losses.dice_loss(X, T, **{name: -1})
    with pytest.raises(
        ValueError, match="multiclass_generalized_dice_loss: argument 'targets' must have the shape"
    ):
        losses.multiclass_generalized_dice_loss(X, T[..., 0])
    with pytest.raises(ValueError, match=r"^multiclass_generalized_dice_loss: argument 'smooth' must lie in"):
        losses.multiclass_generalized_dice_loss(X, T, smooth=-1)
    with pytest.raises(ValueError, match=r"^binary_dice_loss: argument 'smooth' must lie in"):
        losses.binary_dice_loss(X[..., 0], T[..., 0], smooth=-1)
    with pytest.raises(ValueError, match=r"^binary_dice_loss: argument 'predictions' .*apply_sigmoid=False"):
        losses.binary_dice_loss(1 + jnp.abs(X[..., 0]), T[..., 0], apply_sigmoid=False)


def test_concrete_predictions_that_are_no_probabilities_are_refused() -> None:
    targets = jax.nn.one_hot(jnp.array([[0, 1, 2]]), 3)
    for wrong in (jnp.full((1, 3, 3), 0.9), jnp.full((1, 3, 3), -1.0), jnp.full((1, 3, 1), 1.5)):
        with pytest.raises(
            ValueError, match="dice_loss: argument 'predictions' must be valid probability distributions"
        ):
            losses.dice_loss(wrong, targets[..., : wrong.shape[-1]], apply_softmax=False)
    for dtype in (jnp.float32, jnp.bfloat16):
        p = jax.nn.softmax(jnp.linspace(-3, 3, 9).reshape(1, 3, 3)).astype(dtype)
        losses.dice_loss(p, targets.astype(dtype), apply_softmax=False)
    losses.dice_loss(jnp.full((1, 3, 1), 0.7), targets[..., :1], apply_softmax=False)
