"""The norm of a tree, right from the smallest number to the largest."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import AXIS_NAMES, FLAG, NUMBERS, checked
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote
from gradflow._errors import describe
from gradflow._platform import by_platform
from gradflow._shardings import is_on_mesh
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._leaves import accumulator, arrays_of, without_float0
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
      tree: leaves of None and of dtype float0 are absent; of complex numbers the absolute value counts.
      ord: None or 2, 1, or inf (also as a string).
      squared: return the square.
      axis_name: mapped axes (`shard_map`, `vmap`) along which each leaf is one piece of the whole.
    """
    order = _order(ord)
    tree = without_float0(tree)
    result: jax.Array = _norm(tree, order=order, squared=bool(squared), axis_name=axes(axis_name))
    return result


def norm_beside(tree: Any, axis_name: tuple[str, ...] = ()) -> jax.Array:
    """The 2-norm of arrays that a kernel makes, or reads for something else; see `banded_square_sums`."""
    result: jax.Array = _norm(tree, order=2.0, squared=False, axis_name=axis_name, beside=True)
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


@functools.partial(jax.jit, static_argnames=("order", "squared", "axis_name", "beside"))
def _norm(
    tree: Any, *, order: float, squared: bool, axis_name: tuple[str, ...], beside: bool = False
) -> jax.Array:
    leaves = [x if is_inexact(x.dtype) else x.astype(np.float32) for x in arrays_of(tree)]
    dtype = accumulator(leaves, real=True)
    if order == 2.0 and squared:
        return all_sum(_sum_over(_square_sum(dtype), leaves, dtype), axis_name)
    if order == 2.0:
        root, factor = scaled_root([leaves], (axis_name,), beside)
        return root * factor
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
    """Powers of two of a float dtype: three sums of squares, of which one neither vanishes nor overflows.

    The plain sum decides from `small` to `large`. Below, all numbers are multiplied by `up` before they are
    squared, above by `down`. Sums leave room for 2^30 numbers.
    """

    small: float
    large: float
    up: float
    down: float


BANDS = {
    np.dtype(np.float32): Bands(2.0**-60, 2.0**110, 2.0**90, 2.0**-84),
    np.dtype(np.float64): Bands(2.0**-900, 2.0**900, 2.0**600, 2.0**-600),
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def scaled_root(
    groups: list[list[jax.Array]], axes: tuple[tuple[str, ...], ...], beside: bool
) -> tuple[jax.Array, jax.Array]:
    """`(root, factor)`: the 2-norm of all leaves is their product, and `factor` is a power of two.

    The leaves of each group are pieces along its `axes`. `beside` as in `banded_square_sums`. The derivative
    of the norm at zero is 0, the subgradient of least norm.
    """
    result: tuple[jax.Array, jax.Array] = by_platform(
        groups,
        cpu=functools.partial(_read_twice, axes),
        accelerator=functools.partial(_read_once, axes, beside),
    )
    return result


def _read_once(
    axes: tuple[tuple[str, ...], ...], beside: bool, groups: list[list[jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """From three sums at once, without a loop, whose operands an accelerator would write out."""
    dtype = accumulator([x for group in groups for x in group], real=True)
    parts = [banded_sums(leaves, dtype, own, beside) for leaves, own in zip(groups, axes, strict=True)]
    return join_bands(functools.reduce(jax.lax.add, parts))


def _read_twice(
    axes: tuple[tuple[str, ...], ...], groups: list[list[jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """From a plain sum of squares; if it vanished or overflowed, from another one of scaled numbers.

    Of several leaves on one device in a loop, whose kernels serve both readings. With a branch, clip and Adam
    of 12 leaves took 15 % more time to compile (`python -m benchmarks.behind --only compile`). Of one leaf in
    a branch: with a loop, LAMB of 80 leaves takes a quarter more time to compile. On several devices in a
    branch, so that many norms are communicated together.
    """
    leaves = [x for group in groups for x in group]
    is_on_several = jax.sharding.get_abstract_mesh().manual_axes or any(map(is_on_mesh, leaves))
    dtype = accumulator(leaves, real=True)
    small, large, up, down, one = (dtype.type(x) for x in (*BANDS[dtype], 1.0))
    run = _square_sum(dtype)

    def square_of(*shift: jax.Array) -> jax.Array:
        pairs = zip(groups, axes, strict=True)
        parts = [all_sum(_sum_over(run, group, dtype, *shift), own) for group, own in pairs]
        return functools.reduce(jax.lax.add, parts)

    def shift_after(square: jax.Array) -> jax.Array:
        # A NaN is neither small nor large, and stays.
        return jnp.where(square < small, up, jnp.where(square > large, down, one))

    def read(carry: Any) -> tuple[jax.Array, ...]:
        shift = carry[0]
        square = square_of(shift)
        wanted = shift_after(square)
        again = (shift == one) & (wanted != one)
        return jnp.where(again, wanted, shift), square, again

    if len(leaves) <= 1 or is_on_several:
        plain = square_of()
        shift = shift_after(plain)
        root = jax.lax.cond(shift == one, lambda: jnp.sqrt(plain), lambda: jnp.sqrt(square_of(shift)))
        return root, one / shift
    begin: Any = (one, one, np.asarray(True))
    shift, square, _ = jax.lax.while_loop(lambda carry: carry[2], read, begin)
    return jnp.sqrt(square), one / shift


def banded_sums(
    leaves: list[jax.Array], dtype: DType, axis_name: tuple[str, ...], beside: bool = False
) -> jax.Array:
    """The sums of squares of all numbers: multiplied by `up`, as they are, and multiplied by `down`.

    One reading, after which one of the sums is right; see `join_bands`.
    """
    if not leaves:
        return jnp.zeros(3, dtype)
    in_turn, in_pairs = (functools.partial(f, dtype, beside) for f in (_added_in_turn, _added_in_pairs))
    sums = by_platform(leaves, cpu=in_turn, accelerator=in_turn, tpu=in_pairs)
    return all_sum(jnp.stack(sums), axis_name)


def _added_in_turn(dtype: DType, beside: bool, leaves: list[jax.Array]) -> tuple[jax.Array, ...]:
    """One leaf after the other. Of pairs a GPU launches a kernel for every few: 84 for 195 leaves, not 16."""
    parts = call_in_groups(_banded_square_sum(dtype, beside), [(x,) for x in leaves])
    while len(parts) > 1:
        parts = [_add_in_turn(parts[start : start + _TURN]) for start in range(0, len(parts), _TURN)]
    return parts[0]


def _added_in_pairs(dtype: DType, beside: bool, leaves: list[jax.Array]) -> tuple[jax.Array, ...]:
    """In pairs of one type, after which a TPU reads less ahead."""
    rows = [(x,) for x in leaves]
    run = _banded_square_sum(dtype, beside)
    return _add_bands_in_pairs(call_in_groups(run, rows, join=_add_bands_in_pairs))


def join_bands(sums: Any) -> tuple[jax.Array, jax.Array]:
    """`(root, factor)` from `banded_sums`: the norm is their product, and `factor` is a power of two."""
    small, plain, large = sums[0], sums[1], sums[2]
    bands, kind = BANDS[np.dtype(plain.dtype)], plain.dtype.type
    low, high, up, down, one = (np.asarray(kind(x)) for x in (*bands, 1.0))
    is_small, is_large = plain < low, plain > high  # a NaN is neither, and stays

    def choose(if_small: Any, otherwise: Any, if_large: Any) -> jax.Array:
        return jnp.where(is_large, if_large, jnp.where(is_small, if_small, otherwise))

    return jnp.sqrt(choose(small, plain, large)), choose(1 / up, one, 1 / down)


@functools.cache
def _banded_square_sum(dtype: DType, beside: bool) -> Any:
    def banded_square_sum(row: tuple[jax.Array]) -> tuple[jax.Array, ...]:
        return banded_square_sums(row[0], dtype, beside=beside)

    return jax.jit(banded_square_sum)


# Numbers of a leaf. In a backward pass with a clip and adamw on a TPU v5e, sums beside the products save 20 %
# of the cycles with matrices of 2048 x 2048, and 9 % with 4096 x 4096. Matrices of 1024 x 1024 wait in the
# core's own memory for the second reading, which saves 5 %.
_LARGE = 2**21


def banded_square_sums(
    x: jax.Array, dtype: DType, axis: tuple[int, ...] | None = None, beside: bool = False
) -> tuple[jax.Array, ...]:
    """The three sums of `|x|**2` along axes, of `x * up`, of `x`, and of `x * down`; see `join_bands`.

    `beside` is for an `x` that a kernel makes, or reads for something else: a TPU adds three sums of their
    own up in that kernel, but never a reduction of three operands. A step of LAMB takes 0.60 of the cycles.
    For an `x` that is only read, one reduction is 5 % quicker (`python -m benchmarks.aot --platform v5e`).
    Large leaves are always taken so: mostly they are gradients, which a matrix product makes.
    """
    along = tuple(range(x.ndim)) if axis is None else axis
    # The size of a symbolic shape cannot be compared with a number.
    is_large = isinstance(x.size, int) and x.size >= _LARGE

    def of_real(x: jax.Array) -> tuple[jax.Array, ...]:
        squares = _banded_squares(x, dtype)
        on_tpu, elsewhere = _summed if beside or is_large else _reduced_at_once, _reduction_on(x)
        if on_tpu is elsewhere:
            return elsewhere(along, *squares)
        other, tpu = (functools.partial(f, along) for f in (elsewhere, on_tpu))
        sums: tuple[jax.Array, ...] = by_platform(*squares, cpu=other, accelerator=other, tpu=tpu)
        return sums

    parts = (x.real, x.imag) if is_complex(x.dtype) else (x,)
    return _add_bands_in_pairs([of_real(part) for part in parts])


def joint_square_sums(
    arrays: Sequence[jax.Array], dtype: DType, axis: tuple[int, ...]
) -> list[tuple[jax.Array, ...]]:
    """`banded_square_sums` of arrays of one shape, added up in one kernel of a GPU, which writes no array.

    Along the last axis that is a reduction of several operands. Of one along other axes a GPU writes out
    every operand, but not of one operand, in which all squares are stacked. A step of `adaptive_grad_clip`
    and adamw launches 25 kernels, not 73 (`python -m benchmarks.aot --platform h100`).
    """
    squares = [square for x in arrays for square in _banded_squares(x, dtype)]
    inner = max((i for i, size in enumerate(arrays[0].shape) if size != 1), default=0)
    if not axis or inner in axis:
        sums = _reduction_on(arrays[0])(axis, *squares)
    else:
        stacked = jnp.sum(jnp.stack(squares), axis=tuple(i + 1 for i in axis))
        sums = tuple(stacked[i] for i in range(len(squares)))
    return [sums[i : i + 3] for i in range(0, len(sums), 3)]


def _banded_squares(x: jax.Array, dtype: DType) -> tuple[jax.Array, ...]:
    bands = BANDS[np.dtype(dtype)]
    # Behind a barrier XLA does not know the factors. Else it computes `factor**2 * x**2`, and both may be out
    # of range.
    up, down = jax.lax.optimization_barrier(tuple(np.asarray(f, dtype) for f in (bands.up, bands.down)))
    if is_complex(x.dtype):
        parts = (_banded_squares(part, dtype) for part in (x.real, x.imag))
        return _add_bands(*parts)
    x = x.astype(dtype)
    return jnp.square(up * x), jnp.square(x), jnp.square(down * x)


def _reduction_on(x: jax.Array) -> Callable[..., tuple[jax.Array, ...]]:
    """Sums of several operands, for a CPU or GPU. Of one reduction a mesh gathers each part of the sums."""
    return _summed if is_on_mesh(x) else _reduced_at_once


def _summed(axis: tuple[int, ...], *operands: jax.Array) -> tuple[jax.Array, ...]:
    """A reduction of each operand."""
    return tuple(jnp.sum(x, axis=axis) for x in operands)


def _reduced_at_once(axis: tuple[int, ...], *operands: jax.Array) -> tuple[jax.Array, ...]:
    """One reduction of several operands: one kernel that reads them once."""
    zeros = tuple(np.zeros((), x.dtype) for x in operands)
    sums: tuple[jax.Array, ...] = jax.lax.reduce(operands, zeros, _add_bands, axis)
    return sums


def _add_bands(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _add_bands_in_pairs(parts: list[tuple[jax.Array, ...]]) -> tuple[jax.Array, ...]:
    return pairwise_reduce(_add_bands, parts)


_TURN = 30  # three sums of so many leaves are the operands that XLA lets one kernel have


@jax.jit
def _add_in_turn(parts: list[tuple[jax.Array, ...]]) -> tuple[jax.Array, ...]:
    return functools.reduce(_add_bands, parts)


@scaled_root.defjvp
def _scaled_root_jvp(axes: tuple[tuple[str, ...], ...], beside: bool, primals: Any, tangents: Any) -> Any:
    """d|x| = <x / |x|, dx>."""
    (groups,), (dots,) = primals, tangents
    root, factor = scaled_root(groups, axes, beside)
    shift = 1 / jax.lax.stop_gradient(factor)  # the square of a factor may vanish
    parts = []
    for leaves, changes, own in zip(groups, dots, axes, strict=True):
        rows = list(zip(leaves, changes, strict=True))
        sums = call_in_groups(_along, rows, root, shift, join=_sum_in_pairs)
        parts.append(all_sum(sum_of(sums, root.dtype), own))
    return (root, factor), (functools.reduce(jax.lax.add, parts) * shift, jnp.zeros_like(factor))


@jax.jit
def _along(row: tuple[jax.Array, jax.Array], root: jax.Array, shift: jax.Array) -> jax.Array:
    """`<x / |x|, dx>`, and 0 for norm 0."""
    x, dx = (each.astype(promote(each.dtype, root.dtype)) for each in row)
    # XLA may multiply by 1 / root, which is in range, as that of the norm may not be. The inner `where` keeps
    # a second derivative finite.
    size = jnp.where(root == 0, 1, root).astype(x.dtype)
    unit = jnp.where(root == 0, 0, shift.astype(x.dtype) * x / size)
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
