"""Overlap of predicted and true regions: Dice's coefficient and Tversky's index."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradflow._checked import FLAG, checked
from gradflow._dtypes import DType, compute_dtype
from gradflow._errors import describe
from gradflow.losses._inputs import (
    Axis,
    axes_of,
    number,
    parameter,
    real,
    result_dtype,
    same_shape,
)
from gradflow.losses._logspace import one_hot_at_infinity

Reduction = Literal["mean", "sum", "none"]


@checked(apply_softmax=FLAG, ignore_background=FLAG)
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: Reduction = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
) -> jax.Array:
    """One minus the overlap of the predicted membership p and the true one t, for each class.

        wrong = alpha * sum(p * (1 - t)) + beta * sum((1 - p) * t)
        loss = wrong / (sum(p * t) + wrong + smooth), or 0 where both are empty

    Args:
      predictions: logits, shape [batch, ..., classes]; one class means a sigmoid.
      targets: one-hot or in [0, 1], the same shape; either may lack a single class's axis.
      class_weights: factors of the losses, shape [classes].
      smooth: >= 0.
      alpha: weight of false positives, >= 0.
      beta: weight of false negatives, >= 0.
      apply_softmax: False if predictions are already probabilities, whose sum over classes is 1.
      reduction: "mean", "sum" or "none" over the classes.
      ignore_background: leaves out class 0, if there are others.
      axis: axes to sum over; None means all but the first and the last.

    Returns:
      Losses of shape [batch], or [batch, classes], in the promoted dtype of the inputs.

    Raises ValueError where shapes, axis, reduction or a number do not fit, and for concrete predictions that
    are not probabilities with `apply_softmax=False`.

    Source: Milletari et al. 2016, "V-Net", arXiv:1606.04797; Salehi et al. 2017 for alpha != beta.
    """
    name = "dice_loss"
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"{name}: argument 'reduction' must be 'mean', 'sum' or 'none'; got {describe(reduction)}"
        )
    activation = _Flag("apply_softmax", apply_softmax)
    losses, out = _per_class(name, predictions, targets, smooth, activation, alpha, beta, axis)
    if class_weights is not None:
        weights = number(name, "class_weights", class_weights).astype(losses.dtype)
        same_shape(name, "class_weights", weights, "the classes", losses.shape[-1:])
        losses = _weighted(losses, weights)
    if ignore_background:
        losses = _without_background(losses)
    if reduction == "mean":
        losses = jnp.mean(losses, -1)
    elif reduction == "sum":
        losses = jnp.sum(losses, -1)
    return losses.astype(out)


class _Flag(NamedTuple):
    """Whether predictions are logits, under the name that the loss has for it."""

    name: str
    value: bool


def _per_class(
    name: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    smooth: ArrayLike,
    activation: _Flag,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    axis: Axis = None,
) -> tuple[jax.Array, DType]:
    """The losses of `dice_loss` of shape [batch, classes], in the dtype to compute in, and the result's."""
    x = real(name, "predictions", predictions)
    t = number(name, "targets", targets)
    if t.ndim == x.ndim + 1:
        x = x[..., None]
    elif x.ndim == t.ndim + 1:
        t = t[..., None]
    same_shape(name, "targets", t, "predictions", x.shape)
    if x.ndim == 0:
        raise ValueError(f"{name}: argument 'predictions' must have shape [batch, ..., classes]; got ()")
    out = result_dtype(x, t)
    work = compute_dtype(out)
    x, t = x.astype(work), t.astype(work)
    axes = tuple(range(1, x.ndim - 1)) if axis is None else axes_of(name, axis, x.ndim)
    if x.ndim - 1 in axes:
        raise ValueError(
            f"{name}: argument 'axis' must not name the last axis, the classes; got {describe(axis)}"
        )
    alone = x.shape[-1] == 1
    if alone:  # the axis is dropped, since compilers copy around an axis of size 1
        x, t = x[..., 0], t[..., 0]
    if not activation.value:
        _check_probabilities(name, x, alone, out, activation.name)
    p = x
    if activation.value:
        p = jax.nn.sigmoid(x) if alone else jax.nn.softmax(one_hot_at_infinity(x, (-1,)), -1)

    def total(y: jax.Array) -> jax.Array:
        return jnp.sum(y, axes)[..., None] if alone else jnp.sum(y, axes)

    scalar = jnp.zeros((), work)
    enough = isinstance(smooth, int | float) and smooth >= 1e-6  # so that no quotient needs a scale
    smooth = parameter(name, "smooth", smooth, scalar, low=0.0)
    alpha = parameter(name, "alpha", alpha, scalar, low=0.0)
    beta = parameter(name, "beta", beta, scalar, low=0.0)
    wrong = alpha * total(p * (1.0 - t)) + beta * total((1.0 - p) * t)
    whole = total(p * t) + wrong + smooth
    if enough:
        return wrong / whole, out
    # Numbers below the smallest normal one are 0 on a CPU, and on some accelerators are not.
    whole = jnp.where(whole < float(jnp.finfo(work).tiny), 1.0, whole)
    # The powers of a small whole in the derivatives overflow. The quotient does not depend on the scale.
    scale = jax.lax.stop_gradient(1.0 / jnp.minimum(whole, 1.0))
    return (wrong * scale) / (whole * scale), out


def _weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
    return losses * weights.reshape((1,) * (losses.ndim - 1) + (-1,))


def _without_background(losses: jax.Array) -> jax.Array:
    return losses if losses.shape[-1] == 1 else losses[..., 1:]


def _check_probabilities(name: str, p: jax.Array, alone: bool, dtype: DType, flag: str) -> None:
    """Raises ValueError for concrete numbers outside [0, 1], or whose sum over classes differs from 1."""
    if isinstance(p, jax.core.Tracer) or p.size == 0:
        return
    slack = max(1e-3, 16 * float(jnp.finfo(dtype).eps))
    low, high = (float(x) for x in (jnp.min(p), jnp.max(p)))
    if not (low >= -slack and high <= 1 + slack):
        got = f"numbers from {low:g} to {high:g}"
    elif not alone and float(jnp.max(jnp.abs(jnp.sum(p, -1) - 1))) > slack:
        totals = jnp.sum(p, -1)
        got = f"sums over the classes from {float(jnp.min(totals)):g} to {float(jnp.max(totals)):g}"
    else:
        return
    raise ValueError(
        f"{name}: argument 'predictions' must be valid probability distributions, which sum to 1, with "
        f"{flag}=False; got {got}"
    )


@checked(apply_softmax=FLAG, ignore_background=FLAG)
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    """The mean of `dice_loss` over batch and classes, with larger weights for rare classes.

        weight = 1 / (size**2 + 1e-7) for each class, of size sum(targets); then mean(weight) = 1

    Args:
      predictions: logits, shape [batch, ..., classes].
      targets: one-hot or in [0, 1], the same shape.
      smooth: >= 0, added to the overlap and to the whole.
      apply_softmax: False if predictions are already probabilities, whose sum over classes is 1.
      ignore_background: leaves out class 0, if there are others.

    Returns:
      A scalar, in the promoted dtype of the inputs.

    Raises:
      ValueError: the shapes differ, or smooth is negative.
      TypeError: predictions are not real floating-point numbers.

    Source: Sudre et al. 2017, "Generalised Dice Overlap", arXiv:1707.03237.
    """
    name = "multiclass_generalized_dice_loss"
    x = real(name, "predictions", predictions)
    t = number(name, "targets", targets)
    same_shape(name, "targets", t, "predictions", x.shape)
    losses, out = _per_class(name, x, t, smooth, _Flag("apply_softmax", apply_softmax))
    sizes = jnp.sum(t.astype(losses.dtype), tuple(range(t.ndim - 1)))
    weights = 1.0 / (jnp.square(sizes) + 1e-7)
    losses = _weighted(losses, weights / jnp.mean(weights))
    return jnp.mean(_without_background(losses) if ignore_background else losses).astype(out)


@checked(apply_sigmoid=FLAG)
def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_sigmoid: bool = True,
) -> jax.Array:
    """`dice_loss` of one class, whose axis may be left out.

    Args:
      predictions: logits, shape [batch, ...] or [batch, ..., 1].
      targets: membership in [0, 1], either of these shapes.
      smooth: >= 0, added to the overlap and to the whole.
      apply_sigmoid: False if predictions are already probabilities.

    Returns:
      Losses of shape [batch], in the promoted dtype of the inputs.

    Raises:
      ValueError: the shapes differ, or smooth is negative.
      TypeError: predictions are not real floating-point numbers.
    """
    name = "binary_dice_loss"
    x = real(name, "predictions", predictions)
    t = number(name, "targets", targets)
    if x.ndim == t.ndim and x.shape[-1:] != (1,):
        x, t = x[..., None], t[..., None]
    losses, out = _per_class(name, x, t, smooth, _Flag("apply_sigmoid", apply_sigmoid))
    return jnp.mean(losses, -1).astype(out)
