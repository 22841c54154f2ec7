"""Fenchel-Young losses of the Gini entropy, whose predictions have exact zeros."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._dtypes import compute_dtype
from gradflow._tracebacks import one_frame
from gradflow.losses._classes import class_gaps
from gradflow.losses._inputs import number, real, same_shape
from gradflow.losses._logspace import clamp
from gradflow.tree._nan import nan_of


@one_frame
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Binary sparsemax loss, with z = logits if label is 0, -logits if it is 1.

        loss = 0 if z <= -1, z if z >= 1, (z + 1)**2 / 4 between

    Args:
      logits: scores of any shape.
      labels: 0 or 1 of any dtype, or booleans, of the same shape.

    Returns:
      One loss for each score, in the dtype of logits.

    Raises:
      ValueError: the shapes differ.
      TypeError: logits are not floating-point, or labels are not numbers.

    Source: Blondel, Martins and Niculae 2020, "Learning with Fenchel-Young Losses", arXiv:1901.02324.
    """
    x = real("sparsemax_loss", "logits", logits)
    y = number("sparsemax_loss", "labels", labels)
    same_shape("sparsemax_loss", "labels", y, "logits", x.shape)
    out = x.dtype
    return _binary_sparsemax(x.astype(compute_dtype(out)), y.astype(np.bool_)).astype(out)


@jax.custom_jvp
def _binary_sparsemax(x: jax.Array, positive: jax.Array) -> jax.Array:
    z = jnp.where(positive, -x, x)
    return jnp.where(z < 1.0, jnp.square(_wrong_class(z)), z)


@_binary_sparsemax.defjvp
def _binary_sparsemax_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Written out, because the derivative of a clip divides to share ties, and each select is two.
    x, positive = primals
    slope = _wrong_class(jnp.where(positive, -x, x))
    return _binary_sparsemax(x, positive), jnp.where(positive, -slope, slope) * tangents[0]


def _wrong_class(z: jax.Array) -> jax.Array:
    """What the projection onto the simplex gives to the wrong class."""
    return jnp.clip(0.5 * z + 0.5, 0.0, 1.0)


def _project_simplex(x: jax.Array) -> jax.Array:
    """Projects onto the probability simplex along the last axis: max(x - threshold, 0).

    Held, Wolfe and Crowder 1974: the entries above the threshold are kept, and the threshold makes them
    sum to 1.
    """
    largest = float(np.finfo(x.dtype).max)
    x = jnp.clip(x, -largest, largest)  # a difference of two finite scores may be infinite
    x = x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    descending = -jnp.sort(-x, -1)
    excess = jnp.cumsum(descending, -1) - 1.0
    rank = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    kept = jnp.sum(rank * descending > excess, -1, keepdims=True)
    threshold = jnp.take_along_axis(excess, kept - 1, -1) / kept.astype(x.dtype)
    return jnp.maximum(x - threshold, 0.0)


@jax.custom_jvp
def _gini_conjugate(x: jax.Array) -> jax.Array:
    """The maximum over p in the simplex of dot(p, x) + (1 - dot(p, p)) / 2; its gradient is p."""
    p = _project_simplex(x)
    return jnp.sum(p * jnp.where(p > 0, x, 0.0) - 0.5 * jnp.square(p), -1) + 0.5


@_gini_conjugate.defjvp
def _gini_conjugate_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return _gini_conjugate(x), jnp.sum(_project_simplex(x) * dx, -1)


@one_frame
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass sparsemax loss; its gradient is p - one_hot(label).

        p = the projection of scores onto the simplex
        loss = dot(p, scores) - scores[label] + (1 - dot(p, p)) / 2

    Args:
      scores: shape [..., classes].
      labels: integer class indices, shape [...].

    Returns:
      Losses >= 0 of shape [...], in the dtype of scores; NaN where a label is not a class.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating-point, or labels not integer.

    Source: Martins and Astudillo 2016, "From Softmax to Sparsemax", arXiv:1602.02068.
    """
    gaps, _, out = class_gaps("multiclass_sparsemax_loss", scores, labels)
    return (clamp(_gini_conjugate(gaps), 0.0, jnp.inf) + nan_of(gaps, -1)).astype(out)
