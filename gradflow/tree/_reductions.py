"""One number from a whole tree. Below, `sum`, `max` and `min` are not the builtins."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType
from gradflow.tree._leaves import accumulator, arrays_of, call, common_dtype
from gradflow.tree._structure import match

AxisName = str | tuple[str, ...] | None
Join = Callable[[jax.Array, jax.Array], jax.Array]


def sum(tree: Any, associative_reduction: bool = False, *, axis_name: AxisName = None) -> jax.Array:
    """The sum of all numbers in the tree, accumulated and returned in float32 or wider.

    Trees of integers are summed as integers. The leaves' sums are never added one after another, so
    `associative_reduction` changes nothing. `axis_name`: see `norm`.
    """
    del associative_reduction
    result: jax.Array = call(_sum, tree, axis_name=axes(axis_name))
    return result


def max(tree: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The largest number in the tree, -inf if it has none; `axis_name`: see `norm`."""
    result: jax.Array = call(_extreme, tree, largest=True, axis_name=axes(axis_name))
    return result


def min(tree: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The smallest number in the tree, inf if it has none; `axis_name`: see `norm`."""
    result: jax.Array = call(_extreme, tree, largest=False, axis_name=axes(axis_name))
    return result


def vdot(tree_x: Any, tree_y: Any, *, axis_name: AxisName = None) -> jax.Array:
    """The inner product `sum(conj(x) * y)`, accumulated and returned in float32 or wider.

    `axis_name`: see `norm`. Raises ValueError where structures or shapes differ.
    """
    result: jax.Array = call(_vdot, tree_x, tree_y, axis_name=axes(axis_name))
    return result


@functools.partial(jax.jit, static_argnames="axis_name")
def _sum(tree: Any, *, axis_name: tuple[str, ...]) -> jax.Array:
    leaves = arrays_of(tree)
    dtype = accumulator(leaves)
    return all_sum(sum_of([jnp.sum(x.astype(dtype)) for x in leaves], dtype), axis_name)


@functools.partial(jax.jit, static_argnames=("largest", "axis_name"))
def _extreme(tree: Any, *, largest: bool, axis_name: tuple[str, ...]) -> jax.Array:
    leaves = arrays_of(tree, real=True)
    leaves = [x for x in leaves if x.size]
    dtype = common_dtype([x.dtype for x in leaves])
    reduce: Callable[..., jax.Array]
    across: Any
    reduce, pairwise, across, unit = (
        (jnp.max, jnp.maximum, jax.lax.pmax, -np.inf)
        if largest
        else (jnp.min, jnp.minimum, jax.lax.pmin, np.inf)
    )
    parts = [reduce(x).astype(dtype) for x in leaves]
    result = tree_reduce_scalars(pairwise, reduce, parts) if parts else jnp.asarray(unit, dtype)
    return across(result, axis_name) if axis_name else result


@functools.partial(jax.jit, static_argnames="axis_name")
def _vdot(tree_x: Any, tree_y: Any, *, axis_name: tuple[str, ...]) -> jax.Array:
    rows, _ = match(tree_x, tree_y)
    arrays_of(tree_x), arrays_of(tree_y)
    pairs = [(x, y) for x, y in rows if x is not None and y is not None]
    dtype = accumulator([x for pair in pairs for x in pair])
    # Not `jnp.vdot`: a matrix unit would round its operands.
    parts = [jnp.sum(x.conj().astype(dtype) * y.astype(dtype)) for x, y in pairs]
    return all_sum(sum_of(parts, dtype), axis_name)


def axes(axis_name: AxisName) -> tuple[str, ...]:
    """One or several axis names as a tuple."""
    if axis_name is None:
        return ()
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def sum_of(parts: Sequence[jax.Array], dtype: DType) -> jax.Array:
    """The sum of scalars; its roundings grow with the logarithm of their number."""
    parts = [part.astype(dtype) for part in parts]
    return tree_reduce_scalars(jax.lax.add, jnp.sum, parts) if parts else jnp.zeros((), dtype)


# More scalars than this are joined as the numbers of an array, so many at a time.
_FEW, _ROW = 4, 16


def tree_reduce_scalars(
    two: Join, many: Callable[[jax.Array], jax.Array], parts: Sequence[jax.Array]
) -> jax.Array:
    """One scalar from several of one dtype by `two`, which joins two, and `many`, which reduces an array.

    The array is behind a barrier, without which XLA would take it apart and join number after number. On
    CPU it does so in one kernel, which it compiles in the square of their number.
    """
    while len(parts) > _FEW:
        rows = [parts[start : start + _ROW] for start in range(0, len(parts), _ROW)]
        parts = [many(jax.lax.optimization_barrier(jnp.stack(row))) for row in rows]
    return pairwise_reduce(two, parts)


def pairwise_reduce(two: Join, parts: Sequence[jax.Array]) -> jax.Array:
    """Reduce a non-empty sequence by `two`, as a balanced binary tree."""
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [two(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + list(odd)
    return parts[0]


def all_sum(x: jax.Array, axis_name: tuple[str, ...]) -> jax.Array:
    """`psum` over the named axes, if any."""
    return jax.lax.psum(x, axis_name) if axis_name else x
