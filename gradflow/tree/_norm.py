"""The norm of a tree, right from the smallest number to the largest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._leaves import accumulator, arrays_of, call
from gradflow.tree._reductions import AxisName, all_sum, axes, pairwise_reduce, sum_of, tree_reduce_scalars


def norm(
    tree: Any,
    ord: int | str | float | None = None,
    squared: bool = False,
    *,
    axis_name: AxisName = None,
) -> jax.Array:
    """The norm of all numbers in the tree, taken as one vector, in float32 or wider.

    The 2-norm neither overflows nor underflows on the way; only numbers that the device itself
    takes for zero (on CPUs those below 1.2e-38) count as zero. Its gradient at zero is zero. An
    empty tree has norm 0.

    Args:
      tree: None leaves are absent; of complex numbers the absolute value counts.
      ord: None or 2, 1, or inf (also as a string).
      squared: return the square.
      axis_name: mapped axes (`shard_map`, `vmap`) along which each leaf is one piece of the whole.
    """
    order = 2.0 if ord is None else float(ord)
    if order not in (1.0, 2.0, np.inf):
        raise ValueError(f"ord: expected None, 1, 2 or inf, got {ord!r}")
    result: jax.Array = call(_norm, tree, order=order, squared=bool(squared), axis_name=axes(axis_name))
    return result


@functools.partial(jax.jit, static_argnames=("order", "squared", "axis_name"))
def _norm(tree: Any, *, order: float, squared: bool, axis_name: tuple[str, ...]) -> jax.Array:
    leaves = [x if is_inexact(x.dtype) else x.astype(np.float32) for x in arrays_of(tree)]
    dtype = accumulator(leaves, real=True)
    if order == 2.0 and squared:
        return all_sum(_sum_over(_square_sum(dtype), leaves, dtype), axis_name)
    if order == 2.0:
        return _two_norm(leaves, axis_name)
    if order == 1.0:
        sizes = [_widen(jnp.abs(x)) for x in leaves]
        result = all_sum(sum_of([jnp.sum(x) for x in sizes], dtype), axis_name)
    else:
        rows = [(x,) for x in leaves]
        largest = [part.astype(dtype) for part in call_in_groups(_largest, rows, join=_largest_in_pairs)]
        result = tree_reduce_scalars(jnp.maximum, jnp.max, largest) if largest else jnp.zeros((), dtype)
        result = jax.lax.pmax(result, axis_name) if axis_name else result
    return result * result if squared else result


# (limit, up): a plain sum of squares below `limit`, or infinite, is taken again with the numbers
# multiplied or divided by `up`. Then the square of the smallest number is normal, a sum below
# `limit` stays finite, and the square of the largest number leaves room for 2^50 others.
_RESCALING = {
    np.dtype(np.float32): (2.0**-60, 2.0**90),
    np.dtype(np.float64): (2.0**-900, 2.0**600),
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _two_norm(leaves: list[jax.Array], axis_name: tuple[str, ...]) -> jax.Array:
    dtype = accumulator(leaves, real=True)
    limit, up = (dtype.type(x) for x in _RESCALING[dtype])

    plain = all_sum(_sum_over(_square_sum(dtype), leaves, dtype), axis_name)
    small = plain < limit

    def again(leaves: list[jax.Array]) -> jax.Array:
        factor = jnp.where(small, up, 1 / up)
        root = jnp.sqrt(all_sum(_sum_over(_square_sum(dtype), leaves, dtype, factor), axis_name))
        return root * jnp.where(small, 1 / up, up)

    # In a branch, so that ordinary trees are read once. A NaN fails both tests and is the answer.
    rare = small | (plain == np.inf)
    result: jax.Array = jax.lax.cond(rare, again, lambda _: jnp.sqrt(plain), leaves)
    return result


@_two_norm.defjvp
def _two_norm_jvp(
    axis_name: tuple[str, ...],
    primals: tuple[list[jax.Array]],
    tangents: tuple[list[jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """d|x| = <x / |x|, dx>, and 0 at zero: the subgradient of least norm."""
    (leaves,), (dots,) = primals, tangents
    result = _two_norm(leaves, axis_name)
    rows = list(zip(leaves, dots, strict=True))
    parts = call_in_groups(_along, rows, result, join=_sum_in_pairs)
    return result, all_sum(sum_of(parts, result.dtype), axis_name)


@jax.jit
def _along(row: tuple[jax.Array, jax.Array], size: jax.Array) -> jax.Array:
    x, dx = map(_widen, row)
    size = size.astype(x.real.dtype)
    # Divided, not multiplied by 1 / size, which overflows. The inner `where` keeps a second
    # derivative finite.
    unit = jnp.where(size > 0, x / jnp.where(size > 0, size, 1).astype(x.dtype), 0)
    return jnp.sum((unit.conj() * dx).real)


def _sum_over(run: Any, leaves: list[jax.Array], dtype: DType, *shared: Any) -> jax.Array:
    """The sum of `run` over the leaves."""
    return sum_of(call_in_groups(run, [(x,) for x in leaves], *shared, join=_sum_in_pairs), dtype)


def _sum_in_pairs(parts: list[jax.Array]) -> jax.Array:
    return pairwise_reduce(jax.lax.add, parts)


@functools.cache
def _square_sum(dtype: DType) -> Any:
    def square_sum(row: tuple[jax.Array], factor: jax.Array | None = None) -> jax.Array:
        (x,) = row
        if factor is not None:
            # Behind a barrier XLA sees a factor of its own for each leaf. A factor common to leaves of one
            # shape would be written out in that shape; of a constant leaf, the factor's square be taken.
            factor, x = jax.lax.optimization_barrier((factor, x))
        parts = [part.astype(dtype) for part in ((x.real, x.imag) if is_complex(x.dtype) else (x,))]
        if factor is not None:
            parts = [part * factor for part in parts]
        return pairwise_reduce(jax.lax.add, [jnp.sum(jnp.square(part)) for part in parts])

    return jax.jit(square_sum)


@jax.jit
def _largest(row: tuple[jax.Array]) -> jax.Array:
    return jnp.max(_widen(jnp.abs(row[0])), initial=0)


def _largest_in_pairs(parts: list[jax.Array]) -> jax.Array:
    return pairwise_reduce(jnp.maximum, parts)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(compute_dtype(x.dtype))
