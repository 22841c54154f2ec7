"""Similarity and distance from the angle between vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._dtypes import DType, compute_dtype
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import Axis, axes_of, keep, mask_of, parameter, real, result_dtype
from gradflow.losses._logspace import clamp


def inverse_norms(x: jax.Array, axes: tuple[int, ...], epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, b) such that a * b = 1 / max(norm(x), epsilon) along `axes`, kept as sizes of 1.

    `a * x` has entries near 1, so that its squares neither overflow nor vanish. The product does not
    depend on `a`, which is therefore excluded from the gradient. For a zero vector and a zero epsilon
    b is 0.
    """
    tiny = float(np.finfo(x.dtype).tiny)
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axes, keepdims=True, initial=0.0)
    zero = largest < tiny
    inverse = 1.0 / jnp.where(zero, 1.0, jnp.minimum(largest, 0.25 / tiny))
    squares = jnp.sum(jnp.square(x * inverse), axes, keepdims=True)
    norm = jnp.sqrt(jnp.where(zero, 1.0, squares))
    at_zero = jnp.where(epsilon > 0, epsilon, jnp.inf)
    return inverse, 1.0 / jnp.where(zero, at_zero, jnp.maximum(norm, epsilon * inverse))


def _cosine(
    function: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    epsilon: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[jax.Array, DType]:
    a = real(function, "predictions", predictions)
    b = real(function, "targets", targets)
    axes = axes_of(function, axis, a.ndim)
    agree = a.ndim == b.ndim and all(
        m == n or (i not in axes and 1 in (m, n))
        for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True))
    )
    if not agree:
        raise ValueError(
            f"{function}: argument 'targets' must have the shape of predictions, {a.shape}, "
            f"or ones outside axes {axes}; got {b.shape}"
        )
    shape = np.broadcast_shapes(a.shape, b.shape)
    out = result_dtype(a, b)
    work = compute_dtype(out)
    mask = mask_of(function, where, shape, axes)
    if mask is not None:
        a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    a, b = keep(mask, a.astype(work)), keep(mask, b.astype(work))
    bound = parameter(function, "epsilon", epsilon, jnp.zeros((), work), low=0.0)
    (a1, a2), (b1, b2) = inverse_norms(a, axes, bound), inverse_norms(b, axes, bound)
    similarity = jnp.sum((a * a1) * (b * b1), axes, keepdims=True) * (a2 * b2)
    return clamp(jnp.squeeze(similarity, axes), -1.0, 1.0), out


@one_frame
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cosine of the angle: sum(p * t) / (max(norm(p), epsilon) * max(norm(t), epsilon)).

    For a zero vector it is 0, and with `epsilon` 0 its gradient there is 0 too. It neither overflows nor
    vanishes for vectors of any length. Optax bounds the squared norm by epsilon.

    Args:
      predictions: vectors along `axis`, shape [..., dim].
      targets: the same shape; sizes of 1 outside `axis` broadcast, so `x[:, None]` and `y[None]`
        give all pairs.
      epsilon: least length in the denominator, >= 0.
      axis: axis or axes that make up a vector; None means all.
      where: elements to include, of the inputs' shape or without `axis`.

    Returns:
      Cosines in [-1, 1], shape [...], in the promoted dtype of the inputs.

    Raises:
      ValueError: shapes, axis, where or epsilon do not fit.
      TypeError: an input is not real floating-point numbers.

    >>> import gradflow as gf
    >>> gf.cosine_similarity([[3.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]).tolist()
    [1.0, 0.0]
    """
    similarity, out = _cosine("cosine_similarity", predictions, targets, epsilon, axis, where)
    return similarity.astype(out)


@one_frame
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cosine distance: 1 - cosine_similarity(...), with the same arguments; in [0, 2]."""
    similarity, out = _cosine("cosine_distance", predictions, targets, epsilon, axis, where)
    return (1.0 - similarity).astype(out)
