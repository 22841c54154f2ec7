"""Sums of squares that neither vanish nor overflow: three at once, of numbers times two powers of two."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType, is_complex
from gradflow._platform import by_platform
from gradflow._shardings import is_on_mesh
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._reductions import all_sum, pairwise_reduce


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
