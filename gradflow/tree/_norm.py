"""The norm of a tree, right from the smallest number to the largest."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import AXIS_NAMES, FLAG, NUMBERS, checked
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact
from gradflow._errors import describe
from gradflow._platform import by_platform
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._leaves import accumulator, arrays_of, call
from gradflow.tree._reductions import AxisName, all_sum, axes, pairwise_reduce, sum_of, tree_reduce_scalars


@checked(tree=NUMBERS, squared=FLAG, axis_name=AXIS_NAMES | None)
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
    order = _order(ord)
    result: jax.Array = call(_norm, tree, order=order, squared=bool(squared), axis_name=axes(axis_name))
    return result


def _order(ord: Any) -> float:
    """The order as a float, from a number or a string such as "inf"."""
    try:
        order = 2.0 if ord is None else float(ord)
    except (TypeError, ValueError):
        order = np.nan
    if order not in (1.0, 2.0, np.inf):
        raise ValueError(f"tree.norm: argument 'ord' must be None, 1, 2 or inf; got {describe(ord)}")
    return order


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


class Bands(NamedTuple):
    """Powers of two of a float dtype, for squares that neither vanish nor overflow.

    Numbers below `low` are multiplied by `up` before they are squared, numbers above `high` by `down`; the
    sums of the squares in between decide from `small` on. Sums leave room for 2^30 numbers.
    """

    low: float
    high: float
    up: float
    down: float
    small: float


BANDS = {
    np.dtype(np.float32): Bands(2.0**-48, 2.0**40, 2.0**90, 2.0**-84, 2.0**-60),
    np.dtype(np.float64): Bands(2.0**-400, 2.0**400, 2.0**600, 2.0**-600, 2.0**-900),
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _two_norm(leaves: list[jax.Array], axis_name: tuple[str, ...]) -> jax.Array:
    result: jax.Array = by_platform(
        leaves,
        cpu=functools.partial(_two_readings, axis_name=axis_name),
        accelerator=functools.partial(_one_reading, axis_name=axis_name),
    )
    return result


def _two_readings(leaves: list[jax.Array], axis_name: tuple[str, ...]) -> jax.Array:
    """The root of a plain sum of squares; if it vanished or overflowed, of another one of scaled numbers."""
    dtype = accumulator(leaves, real=True)
    bands = BANDS[dtype]
    plain = all_sum(_sum_over(_square_sum(dtype), leaves, dtype), axis_name)
    small = plain < dtype.type(bands.small)

    def again(leaves: list[jax.Array]) -> jax.Array:
        up = dtype.type(bands.up)
        factor = jnp.where(small, up, 1 / up)
        root = jnp.sqrt(all_sum(_sum_over(_square_sum(dtype), leaves, dtype, factor), axis_name))
        return root * jnp.where(small, 1 / up, up)

    # In a branch, so that ordinary trees are read once. A NaN fails both tests and is the answer.
    rare = small | (plain == np.inf)
    result: jax.Array = jax.lax.cond(rare, again, lambda _: jnp.sqrt(plain), leaves)
    return result


def _one_reading(leaves: list[jax.Array], axis_name: tuple[str, ...]) -> jax.Array:
    """The same from one reading, without a branch, whose operands an accelerator would write out."""
    root, factor = join_bands(banded_sums(leaves, accumulator(leaves, real=True), axis_name))
    return root * factor


def banded_sums(leaves: list[jax.Array], dtype: DType, axis_name: tuple[str, ...]) -> jax.Array:
    """The sums of squares of small, ordinary and large numbers, each with a scale of its own.

    One reading, neither overflow nor underflow (Anderson 2017, as in LAPACK's `nrm2`); see `join_bands`.
    """
    rows = [(x,) for x in leaves]
    found = call_in_groups(_banded_square_sum(dtype), rows, join=_add_bands_in_pairs)
    sums = [sum_of([each[band] for each in found], dtype) for band in range(3)]
    return all_sum(jnp.stack(sums), axis_name)


def join_bands(sums: Any) -> tuple[jax.Array, jax.Array]:
    """`(root, factor)` from `banded_sums`: the norm is their product, and `factor` is a power of two."""
    small, middle, large = sums[0], sums[1], sums[2]
    bands, kind = BANDS[np.dtype(small.dtype)], small.dtype.type
    low, up, down, one = (np.asarray(kind(x)) for x in (bands.small, bands.up, bands.down, 1.0))
    is_large = large > 0
    is_small = (middle < low) & ~is_large

    def choose(if_small: Any, otherwise: Any, if_large: Any) -> jax.Array:
        return jnp.where(is_large, if_large, jnp.where(is_small, if_small, otherwise))

    # The sum of the next band may count, too.
    neighbor = _scaled_square(jnp.sqrt(choose(middle, small, middle)), choose(up, 1 / up, down))
    root = jnp.sqrt(choose(small, middle, large) + neighbor)
    return root, choose(1 / up, one, 1 / down)


def _scaled_square(x: jax.Array, factor: Any) -> jax.Array:
    """`(factor * x)**2` for x >= 0.

    The maximum changes nothing. Without it XLA computes `factor**2 * x**2` for a constant factor, and both
    may be out of range.
    """
    return jnp.square(jnp.maximum(factor * x, jnp.zeros((), x.dtype)))


@functools.cache
def _banded_square_sum(dtype: DType) -> Any:
    def banded_square_sum(row: tuple[jax.Array]) -> tuple[jax.Array, ...]:
        (x,) = row
        parts = (x.real, x.imag) if is_complex(x.dtype) else (x,)
        return _add_bands_in_pairs([_sums(part.astype(dtype)) for part in parts])

    return jax.jit(banded_square_sum)


def _sums(x: jax.Array) -> tuple[jax.Array, ...]:
    low, high, up, down = (np.asarray(x.dtype.type(bound)) for bound in BANDS[np.dtype(x.dtype)][:4])
    size, zero = jnp.abs(x), jnp.zeros((), x.dtype)
    small, large = size < low, size > high
    # Each band selects before it squares. One square used three times XLA writes out for GPUs, and so it does
    # three squares of a number that a guard has selected.
    squares = (
        _scaled_square(jnp.where(small, size, zero), up),
        jnp.square(jnp.where(small | large, zero, x)),  # a NaN is neither, and stays
        _scaled_square(jnp.where(large, size, zero), down),
    )
    # One reduction of three operands: one kernel that reads them once.
    sums: tuple[jax.Array, ...] = jax.lax.reduce(squares, (zero,) * 3, _add_bands, tuple(range(x.ndim)))
    return sums


def _add_bands(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _add_bands_in_pairs(parts: list[tuple[jax.Array, ...]]) -> tuple[jax.Array, ...]:
    return pairwise_reduce(_add_bands, parts)


@_two_norm.defjvp
def _two_norm_jvp(
    axis_name: tuple[str, ...],
    primals: tuple[list[jax.Array]],
    tangents: tuple[list[jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """d|x| = <x / |x|, dx>, and 0 at zero: the subgradient of least norm."""
    (leaves,), (dots,) = primals, tangents
    result = _two_norm(leaves, axis_name)
    return result, along(leaves, dots, result, axis_name)


def along(
    leaves: list[jax.Array], dots: list[jax.Array], size: jax.Array, axis_name: tuple[str, ...]
) -> jax.Array:
    """`<x / size, dx>`, and 0 for size 0."""
    rows = list(zip(leaves, dots, strict=True))
    parts = call_in_groups(_along, rows, size, join=_sum_in_pairs)
    return all_sum(sum_of(parts, size.dtype), axis_name)


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
