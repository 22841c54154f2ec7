"""Checks, looks up and compares integer labels.

A label that is not a class selects NaN, so that a wrong label never looks like a loss.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._dtypes import DType, compute_dtype
from gradflow.losses._inputs import integer, real


def class_labels(function: str, labels: ArrayLike, shape: tuple[int, ...], axes: Sequence[int]) -> jax.Array:
    """Integer `labels`, one for each slice of an array of `shape` along `axes`."""
    array = integer(function, "labels", labels)
    expected = tuple(n for i, n in enumerate(shape) if i not in axes)
    if array.shape != expected:
        hint = ""
        if array.shape == shape and len(axes) == 1:
            hint = f". One-hot labels become indices by labels.argmax({axes[0] - len(shape)})"
        raise ValueError(
            f"{function}: argument 'labels' must be class indices of shape {expected} "
            f"for inputs of shape {shape}; got {array.shape}{hint}"
        )
    return array


def flatten_axes(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, int]:
    """`x` with `axes` flattened in their order into one, and the index of that axis."""
    if len(axes) == 1:
        return x, axes[0]
    batch = [i for i in range(x.ndim) if i not in axes]
    flat = math.prod(x.shape[a] for a in axes)
    x = x.transpose((*batch, *axes))
    return x.reshape((*x.shape[: len(batch)], flat)), len(batch)


def pick(x: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """The labeled entries of `x`, with a size of 1 left at `axis`."""
    labels = jnp.where(labels < 0, x.shape[axis], labels)  # negative labels would wrap around
    return jnp.take_along_axis(x, jnp.expand_dims(labels, axis), axis, mode="fill")


def is_class(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Booleans that are True at the labeled entries of an array of `shape`."""
    index = jnp.expand_dims(jnp.arange(shape[axis], dtype=np.int32), (*range(len(shape) - 1),))
    return jnp.expand_dims(labels, axis) == jnp.moveaxis(index, -1, axis)


def class_gaps(function: str, scores: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array, DType]:
    """The inputs of losses of scores [..., classes] and labels [...].

    Returns:
      scores - scores[label]; booleans that are True at the label; the result's dtype.
    """
    x = real(function, "scores", scores)
    if not x.shape or not x.shape[-1]:
        raise ValueError(
            f"{function}: argument 'scores' must have shape [..., classes], with a class; got {x.shape}"
        )
    out = x.dtype
    x = x.astype(compute_dtype(out))
    last = x.ndim - 1
    indices = class_labels(function, labels, x.shape, (last,))
    return x - pick(x, indices, last), is_class(indices, x.shape, last), out
