"""Norms of the units of a leaf: its rows, columns or matrices, or all of it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._dtypes import real_dtype
from gradflow._errors import describe
from gradflow._platform import by_platform
from gradflow._rules._math import abs_sq, largest, safe_sqrt
from gradflow._shardings import is_on_mesh
from gradflow._types import Updates
from gradflow.tree._bands import banded_square_sums, join_bands, joint_square_sums
from gradflow.tree._paths import path_string

Axis = int | tuple[int, ...] | None
Norm = tuple[jax.Array, jax.Array]
# Sums of squares of several arrays, as three numbers for each unit of each.
Sums = Callable[[Sequence[jax.Array], tuple[int, ...]], list[tuple[jax.Array, ...]]]


def unit_norm(x: jax.Array, axis: Axis = None, beside: bool = False) -> Norm:
    """`(size, power)` of each unit: its norm is `size / power`, and neither is out of range.

    The norm runs over `axis`, by default over all axes; those axes stay, with length 1. `beside` as in
    `banded_square_sums`; of a sharded `x` it also adds up without gathering the parts of the sums.
    """
    return unit_norms((x,), axis, beside)[0]


def unit_norms(arrays: Sequence[jax.Array], axis: Axis = None, beside: bool = False) -> tuple[Norm, ...]:
    """`unit_norm` of arrays of one shape; if their types are equal, a GPU reads them in one kernel."""
    ndim = arrays[0].ndim
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(i % ndim for i in axes) if ndim else ()  # rules are traced on a number for empty trees
    alike = all(jax.typeof(x) == jax.typeof(arrays[0]) for x in arrays)
    # On a mesh a second reading would be a second collective. Beside other sums and largest numbers XLA on a
    # CPU joins the two to theirs: a step of adamp on 8 devices has 2 collectives, and else 6.
    reads_once = not beside and any(map(is_on_mesh, arrays))
    once = functools.partial(_one_reading, axes=axes, sums=_beside)
    return by_platform(
        tuple(arrays),
        cpu=once if reads_once else functools.partial(_two_readings, axes=axes),
        accelerator=functools.partial(_one_reading, axes=axes, sums=_jointly if alike else _one_by_one),
        tpu=functools.partial(_one_reading, axes=axes, sums=_beside if beside else _each),
    )


def _two_readings(arrays: tuple[jax.Array, ...], axes: tuple[int, ...]) -> tuple[Norm, ...]:
    return tuple(_read_twice(x, axes) for x in arrays)


def _read_twice(x: jax.Array, axes: tuple[int, ...]) -> Norm:
    peak = jax.lax.stop_gradient(largest(jnp.abs(x), axes, keepdims=True))
    # Brought into [2^-48, 2^48] the largest number of a unit, its square and its inverse are in range.
    power = _power(peak < 2.0**-32, peak > 2.0**32, peak.dtype)
    scaled = power.astype(x.dtype) * x
    return safe_sqrt(jnp.sum(abs_sq(scaled), axis=axes, keepdims=True)), power


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _one_reading(arrays: tuple[jax.Array, ...], axes: tuple[int, ...], sums: Sums) -> tuple[Norm, ...]:
    return tuple(_joined(each, axes) for each in sums(arrays, axes))


def _joined(sums: tuple[jax.Array, ...], axes: tuple[int, ...]) -> Norm:
    root, factor = join_bands([jnp.expand_dims(each, axes) for each in sums])
    power = _power(factor < 1, factor > 1, root.dtype)
    return root * (factor * power), power


@_one_reading.defjvp
def _one_reading_jvp(axes: tuple[int, ...], sums: Sums, primals: Any, tangents: Any) -> Any:
    (arrays,), (dots,) = primals, tangents
    norms = _one_reading(arrays, axes, sums)
    return norms, tuple(_dot(*each, axes) for each in zip(norms, arrays, dots, strict=True))


def _dot(norm: Norm, x: jax.Array, dx: jax.Array, axes: tuple[int, ...]) -> Norm:
    size, power = norm
    unit = power.astype(x.dtype) * x / jnp.where(size > 0, size, 1).astype(x.dtype)
    along = jnp.sum((unit.conj() * dx).real, axis=axes, keepdims=True)
    return power * along, jnp.zeros_like(power)


def _each(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> list[tuple[jax.Array, ...]]:
    return [banded_square_sums(x, real_dtype(x.dtype), axes) for x in arrays]


def _beside(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> list[tuple[jax.Array, ...]]:
    return [banded_square_sums(x, real_dtype(x.dtype), axes, True) for x in arrays]


def _jointly(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> list[tuple[jax.Array, ...]]:
    return joint_square_sums(arrays, real_dtype(arrays[0].dtype), axes)


def _one_by_one(arrays: Sequence[jax.Array], axes: tuple[int, ...]) -> list[tuple[jax.Array, ...]]:
    return [_jointly([x], axes)[0] for x in arrays]


def _power(is_small: jax.Array, is_large: jax.Array, dtype: Any) -> jax.Array:
    one = jnp.ones((), dtype)
    return jnp.where(is_small, one * 2.0**80, jnp.where(is_large, one * 2.0**-80, one))


def input_axes(x: Any) -> tuple[int, ...]:
    """The axes of a unit's inputs: all of vectors, the first of matrices and 3-D arrays, all but the last of
    kernels. Axes of length 1 do not count."""
    many = sum(n > 1 for n in x.shape)
    return tuple(range(1 if many > 1 and x.ndim in (2, 3) else x.ndim if many <= 1 else x.ndim - 1))


def input_norms(*arrays: jax.Array, axis: Axis = None) -> tuple[Norm, ...]:
    """`unit_norms`, by default over the axes of a unit's inputs."""
    return unit_norms(arrays, input_axes(arrays[0]) if axis is None else axis)


def unit_direction(x: jax.Array, axis: Axis = None) -> jax.Array:
    """`x` with each unit divided by its norm; zero where a unit is zero."""
    size, power = unit_norm(x, axis)
    return (power * x) / jnp.where(size > 0, size, 1)


def check_axis(owner: str, axis: Any) -> None:
    """Raises TypeError unless `axis` is None, a whole number or a tuple of them."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    if axis is not None and not all(isinstance(i, int | np.integer) for i in axes):
        raise TypeError(
            f"{owner}: argument 'axis' must be None, a whole number or a tuple of them; got {describe(axis)}"
        )


def check_has_axis(axis: Axis, updates: Updates) -> None:
    """Raises ValueError naming the first leaf that does not have these axes, each once."""
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        if not all(-leaf.ndim <= i < leaf.ndim for i in axes):
            raise ValueError(
                f"{stage_name()}: argument 'axis' must name axes of every leaf; got {axis} and "
                f"shape {leaf.shape} at '{path_string(path)}'. Exclude it with gradflow.masked."
            )
        if leaf.ndim and len({i % leaf.ndim for i in axes}) < len(axes):
            raise ValueError(
                f"{stage_name()}: argument 'axis' must name an axis once; got {axis} and shape {leaf.shape} "
                f"at '{path_string(path)}'"
            )
