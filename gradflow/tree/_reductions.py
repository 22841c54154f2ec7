"""Reductions of a tree to one number. In this file `sum`, `max` and `min` are not the builtins."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import AXIS_NAMES, FLAG, NUMBERS, checked
from gradflow._dtypes import DType, is_inexact
from gradflow._platform import by_platform
from gradflow.tree._leaves import accumulator, arrays_of, common_dtype
from gradflow.tree._nan import nan_of
from gradflow.tree._structure import match

AxisName = str | tuple[str, ...] | None
T = TypeVar("T")
Join = Callable[[jax.Array, jax.Array], jax.Array]


@checked(tree=NUMBERS, associative_reduction=FLAG, axis_name=AXIS_NAMES | None)
def sum(tree: Any, associative_reduction: bool = False, *, axis_name: AxisName = None) -> jax.Array:
    """The sum of all numbers in the tree, accumulated and returned in float32 or wider.

    Trees of integers are summed as integers. Sums of leaves are always added pairwise, so
    `associative_reduction` has no effect. `axis_name`: see `norm`.
    """
    del associative_reduction
    result: jax.Array = _sum(tree, axis_name=axes(axis_name))
    return result


@checked(tree=NUMBERS, axis_name=AXIS_NAMES | None)
def max(tree: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The largest number in the tree, -inf if it is empty; `axis_name`: see `norm`.

    Complex numbers are ordered as in NumPy: by the real part, then the imaginary one. With `axis_name` they
    raise TypeError.
    """
    result: jax.Array = _extreme(tree, largest=True, axis_name=axes(axis_name))
    return result


@checked(tree=NUMBERS, axis_name=AXIS_NAMES | None)
def min(tree: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The smallest number in the tree, inf if it is empty; complex numbers and `axis_name`: see `max`."""
    result: jax.Array = _extreme(tree, largest=False, axis_name=axes(axis_name))
    return result


@checked(tree_x=NUMBERS, tree_y=NUMBERS, axis_name=AXIS_NAMES | None)
def vdot(tree_x: Any, tree_y: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The inner product `sum(conj(x) * y)`, accumulated and returned in float32 or wider.

    `axis_name`: see `norm`. Raises ValueError where structures or shapes differ.
    """
    result: jax.Array = _vdot(tree_x, tree_y, axis_name=axes(axis_name))
    return result


@functools.partial(jax.jit, static_argnames="axis_name")
def _sum(tree: Any, *, axis_name: tuple[str, ...]) -> jax.Array:
    leaves = arrays_of(tree)
    dtype = accumulator(leaves)
    return all_sum(sum_of([jnp.sum(x.astype(dtype)) for x in leaves], dtype), axis_name)


@functools.partial(jax.jit, static_argnames=("largest", "axis_name"))
def _extreme(tree: Any, *, largest: bool, axis_name: tuple[str, ...]) -> jax.Array:
    leaves = arrays_of(tree, real=bool(axis_name))
    leaves = [x for x in leaves if x.size]
    dtype = common_dtype([x.dtype for x in leaves])
    reduce: Callable[..., jax.Array]
    across: Any
    reduce, pairwise, across, unit = (
        (jnp.max, jnp.maximum, jax.lax.pmax, -np.inf)
        if largest
        else (jnp.min, jnp.minimum, jax.lax.pmin, np.inf)
    )
    parts = [(reduce(x) + nan_of(x) if is_inexact(x.dtype) else reduce(x)).astype(dtype) for x in leaves]
    result = tree_reduce_scalars(pairwise, reduce, parts) if parts else jnp.asarray(unit, dtype)
    if not axis_name:
        return result
    whole: jax.Array = across(result, axis_name)
    return whole + jax.lax.psum(nan_of(result), axis_name) if is_inexact(dtype) else whole


@functools.partial(jax.jit, static_argnames="axis_name")
def _vdot(tree_x: Any, tree_y: Any, *, axis_name: tuple[str, ...]) -> jax.Array:
    rows, _ = match(tree_x, tree_y)
    arrays_of(tree_x), arrays_of(tree_y)
    pairs = [(x, y) for x, y in rows if x is not None and y is not None]
    dtype = accumulator([x for pair in pairs for x in pair])
    # Not `jnp.vdot`, whose operands a matrix unit would round.
    parts = [jnp.sum(x.conj().astype(dtype) * y.astype(dtype)) for x, y in pairs]
    return all_sum(sum_of(parts, dtype), axis_name)


def axes(axis_name: AxisName) -> tuple[str, ...]:
    """One or several axis names as a tuple."""
    if axis_name is None:
        return ()
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def sum_of(parts: Sequence[jax.Array], dtype: DType) -> jax.Array:
    """The sum of scalars, with a rounding error that grows with the logarithm of their number."""
    parts = [part.astype(dtype) for part in parts]
    return tree_reduce_scalars(jax.lax.add, jnp.sum, parts) if parts else jnp.zeros((), dtype)


# More than _FEW scalars are stacked into arrays of _ROW and reduced as arrays.
_FEW, _ROW = 4, 16


def tree_reduce_scalars(
    two: Join, many: Callable[[jax.Array], jax.Array], parts: Sequence[jax.Array]
) -> jax.Array:
    """Reduces scalars of one dtype to one, by `two` for pairs and `many` for arrays.

    On a CPU the stacked array is behind a barrier. Without it XLA would split the array into scalars and
    combine them one by one, in a kernel whose compile time grows with the square of their number. On an
    accelerator that single kernel is best.
    """

    def in_rows(parts: Sequence[jax.Array]) -> jax.Array:
        while len(parts) > _FEW:
            rows = [parts[start : start + _ROW] for start in range(0, len(parts), _ROW)]
            parts = [many(jax.lax.optimization_barrier(jnp.stack(row))) for row in rows]
        return pairwise_reduce(two, parts)

    if len(parts) <= _FEW:
        return pairwise_reduce(two, parts)
    pairs = functools.partial(pairwise_reduce, two)
    result: jax.Array = by_platform(list(parts), cpu=in_rows, accelerator=pairs)
    return result


def pairwise_reduce(two: Callable[[T, T], T], parts: Sequence[T]) -> T:
    """Reduces a non-empty sequence by `two`, as a balanced binary tree."""
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [two(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + list(odd)
    return parts[0]


def all_sum(x: jax.Array, axis_name: tuple[str, ...]) -> jax.Array:
    """`psum` over the named axes, if there are any."""
    return jax.lax.psum(x, axis_name) if axis_name else x
