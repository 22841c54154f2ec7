"""Converts the inputs of losses to arrays of one dtype, and raises errors for those that do not fit."""

import math
import operator
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from gradflow._dtypes import DType, compute_dtype, promote
from gradflow._errors import describe

Axis = int | Sequence[int] | None


def number(function: str, name: str, value: ArrayLike) -> jax.Array:
    """`value` as an array of booleans, integers or real floating-point numbers."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = "an integer beyond 64 bits" if isinstance(value, int) else type(value).__name__
        raise TypeError(f"{function}: argument '{name}' must be an array of numbers; got {kind}") from error
    kinds: tuple[DTypeLike, ...] = (jnp.floating, jnp.integer, np.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"{function}: argument '{name}' must hold real numbers; got dtype {array.dtype}")
    return array


def real(function: str, name: str, value: ArrayLike) -> jax.Array:
    """`value` as an array of real floating-point numbers."""
    array = number(function, name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{function}: argument '{name}' must be real floating-point numbers; got dtype {array.dtype}"
        )
    return array


def integer(function: str, name: str, value: ArrayLike) -> jax.Array:
    """`value` as an int32 array, clipped to its range; only integer dtypes are accepted."""
    array = number(function, name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: argument '{name}' must be integers; got dtype {array.dtype}. "
            f"Pass {name}.astype(int)"
        )
    if array.dtype.itemsize > 4:
        low = -1 if jnp.issubdtype(array.dtype, jnp.signedinteger) else 0
        array = jnp.clip(array, low, np.iinfo(np.int32).max)
    return array.astype(np.int32)


def result_dtype(*arrays: jax.Array) -> DType:
    """The promoted dtype of the floating-point `arrays`, of which the first must be one.

    Integers and booleans do not take part, and Python floats only without a floating-point array.
    """
    strong = [np.dtype(a.dtype) for a in arrays if jnp.issubdtype(a.dtype, jnp.floating) and not a.weak_type]
    dtype = strong[0] if strong else np.dtype(arrays[0].dtype)
    for other in strong[1:]:
        dtype = promote(dtype, other)
    return dtype


def pair(
    function: str,
    names: tuple[str, str],
    first: ArrayLike,
    second: ArrayLike,
    *,
    scalar: bool = False,
    reals: bool = False,
    broadcast: bool = False,
    hint: str = "",
) -> tuple[jax.Array, jax.Array, DType]:
    """Two inputs of equal shape in the dtype to compute in, and the dtype of the result.

    With `scalar` the second one may be a single number; with `broadcast` any shapes that broadcast; with
    `reals` it may not be integers. An error about shapes that do not broadcast ends in the hint.
    """
    a = real(function, names[0], first)
    b = (real if reals else number)(function, names[1], second)
    shape = a.shape
    if broadcast and b.shape != shape:
        shape = _common_shape(function, names, a, b, hint)
    elif not (scalar and b.ndim == 0):
        same_shape(function, names[1], b, names[0], a.shape)
    out = result_dtype(a, b)
    work = compute_dtype(out)
    return jnp.broadcast_to(a.astype(work), shape), jnp.broadcast_to(b.astype(work), shape), out


def _common_shape(
    function: str, names: tuple[str, str], a: jax.Array, b: jax.Array, hint: str
) -> tuple[int, ...]:
    """The shape that two inputs broadcast to; a warning where both change, which is seldom meant."""
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(
            f"{function}: argument '{names[1]}' must have the shape of {names[0]}, {a.shape}, or broadcast; "
            f"got {b.shape}{hint}"
        ) from None
    if shape not in (a.shape, b.shape):
        warnings.warn(
            f"{function}: {names[0]} of shape {a.shape} and {names[1]} of shape {b.shape} broadcast to "
            f"{shape}, a loss for every pair. If one loss for each prediction is meant, reshape one of them",
            stacklevel=5,
        )
    return shape


def same_shape(function: str, name: str, array: jax.Array, other: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `array` has `shape`, that of the argument `other`."""
    if array.shape != shape:
        raise ValueError(
            f"{function}: argument '{name}' must have the shape of {other}, {shape}; got {array.shape}"
        )


def axes_of(function: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as distinct non-negative axes of an array with `ndim` of them; None is all."""
    if axis is None:
        return tuple(range(ndim))
    try:
        given = [operator.index(a) for a in (axis if isinstance(axis, Sequence) else (axis,))]
        if any(isinstance(a, bool) for a in (axis if isinstance(axis, Sequence) else (axis,))):
            raise TypeError("a bool")
    except TypeError as error:
        raise TypeError(
            f"{function}: argument 'axis' must be an int, a tuple of them or None; got {describe(axis)}"
        ) from error
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if not all(0 <= a < ndim for a in axes) or len(set(axes)) < len(axes):
        raise ValueError(
            f"{function}: argument 'axis' must name distinct axes of {ndim}-dimensional inputs; got "
            f"{describe(axis)}"
        )
    return axes


def mask_of(
    function: str, where: ArrayLike | None, shape: tuple[int, ...], axes: Sequence[int]
) -> jax.Array | None:
    """`where` as booleans of `shape`; nonzero means included.

    It may have that shape or sizes of 1 in it. It may lack `axes`; it then keeps or drops whole slices.
    """
    if where is None:
        return None
    mask = number(function, "where", where).astype(np.bool_)
    if mask.ndim == len(shape) - len(axes) and mask.ndim != len(shape):
        mask = jnp.expand_dims(mask, sorted(axes))
    fits = mask.ndim == len(shape) and all(m in (1, n) for m, n in zip(mask.shape, shape, strict=True))
    if not fits and mask.ndim > 0:
        raise ValueError(
            f"{function}: argument 'where' must have the shape of the inputs, {shape}, "
            f"or lack the axes {tuple(axes)}; got {np.shape(where)}"
        )
    return jnp.broadcast_to(mask, shape)


def keep(mask: jax.Array | None, array: jax.Array) -> jax.Array:
    """`array` with zeros where `mask` is False, so that values and gradients there are zero."""
    return array if mask is None else jnp.where(mask, array, 0.0)


def parameter(
    function: str,
    name: str,
    value: ArrayLike,
    like: jax.Array,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> jax.Array:
    """A hyper-parameter as an array of the dtype of `like`: a scalar, or broadcast to its shape.

    Numbers of Python and NumPy must be in [low, high], or in (low, high] with `open_low`.
    """
    array = number(function, name, value).astype(like.dtype)
    if isinstance(value, int | float | np.number | np.ndarray):
        above = value > low if open_low else value >= low
        if not np.all(above & (value <= high)):
            bounds = f"{'(' if open_low else '['}{low}, {high}]"
            got = describe(value) if np.ndim(value) else value
            raise ValueError(f"{function}: argument '{name}' must lie in {bounds}; got {got}")
    if array.ndim == 0:
        return array
    try:
        return jnp.broadcast_to(array, like.shape)
    except ValueError as error:
        raise ValueError(
            f"{function}: argument '{name}' must be a scalar or broadcast to {like.shape}; got {array.shape}"
        ) from error
