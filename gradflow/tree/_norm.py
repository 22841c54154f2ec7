"""The norm of a tree, right from the smallest number to the largest."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from gradflow import _platform
from gradflow._checked import AXIS_NAMES, FLAG, NUMBERS, checked
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote
from gradflow._errors import describe
from gradflow._platform import by_platform, is_one_device
from gradflow._shardings import is_on_mesh
from gradflow.tree._bands import BANDS, banded_sums, join_bands
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._leaves import accumulator, arrays_of, without_float0
from gradflow.tree._nan import nan_of
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


def largest_size(tree: Any) -> jax.Array:
    """The largest absolute value, for a unit: a CPU may leave a NaN out. It writes no array."""
    result: jax.Array = _norm(tree, order=np.inf, squared=False, axis_name=(), shows_nan=False)
    return result


@jax.jit
def has_finite_size(tree: Any) -> jax.Array:
    """Whether all numbers are finite, from one reading."""
    leaves = [x for x in arrays_of(tree) if is_inexact(x.dtype)]
    dtype = accumulator(leaves, real=True)
    sums = call_in_groups(_zero_if_finite, [(x,) for x in leaves], join=_sum_in_pairs)
    return sum_of([part.astype(dtype) for part in sums], dtype) == 0


def _order(ord: Any) -> float:
    """The order as a float, from a number or a string such as "inf"."""
    try:
        order = 2.0 if ord is None else float(ord)
    except (TypeError, ValueError):
        order = np.nan
    if order not in (1.0, 2.0, np.inf):
        raise ValueError(f"tree.norm: argument 'ord' must be None, 1, 2 or inf; got {describe(ord)}")
    return order


@functools.partial(jax.jit, static_argnames=("order", "squared", "axis_name", "beside", "shows_nan"))
def _norm(
    tree: Any,
    *,
    order: float,
    squared: bool,
    axis_name: tuple[str, ...],
    beside: bool = False,
    shows_nan: bool = True,
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
        run = _largest if shows_nan else _largest_number
        largest = [part.astype(dtype) for part in call_in_groups(run, rows, join=_largest_in_pairs)]
        result = tree_reduce_scalars(jnp.maximum, jnp.max, largest) if largest else jnp.zeros((), dtype)
        if axis_name:
            result = jax.lax.pmax(result, axis_name) + jax.lax.psum(nan_of(result), axis_name)
    return result * result if squared else result


Axes = tuple[tuple[str, ...], ...]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def scaled_root(groups: list[list[jax.Array]], axes: Axes, beside: bool) -> tuple[jax.Array, jax.Array]:
    """`(root, factor)`: the 2-norm of all leaves is their product, and `factor` is a power of two.

    The leaves of each group are pieces along its `axes`. `beside` as in `banded_square_sums`. The derivative
    of the norm at zero is 0, the subgradient of least norm.
    """
    leaves = [x for group in groups for x in group]
    is_on_several = bool(jax.sharding.get_abstract_mesh().manual_axes) or any(map(is_on_mesh, leaves))
    if is_on_several or any(axes) or not leaves:
        return _by_readings(axes, beside, is_on_several, groups)
    root, factor = _of_leaves().bind(*leaves, beside=beside)
    return root, factor


def _by_readings(
    axes: Axes, beside: bool, is_on_several: bool, groups: list[list[jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    in_a_loop = not is_on_several and sum(map(len, groups)) > 1
    result: tuple[jax.Array, jax.Array] = by_platform(
        groups,
        cpu=functools.partial(_read_twice, axes, in_a_loop),
        accelerator=functools.partial(_read_once, axes, beside),
    )
    return result


@functools.cache
def _of_leaves() -> Any:
    """A primitive of leaves that are whole, of which only the reading that a device needs is traced."""
    norm = type(jax.lax.add_p)("scaled_root")
    norm.multiple_results = True

    def types(*leaves: Any, beside: bool) -> list[Any]:
        return [jax.core.ShapedArray((), accumulator(leaves, real=True))] * 2

    def by_readings(*leaves: Any, beside: bool) -> tuple[jax.Array, jax.Array]:
        return _by_readings(((),), beside, False, [list(leaves)])

    def mapped(leaves: Sequence[Any], axes: Sequence[Any], *, beside: bool) -> Any:
        return jax.vmap(functools.partial(by_readings, beside=beside), axes)(*leaves), [0, 0]

    def derived(leaves: Sequence[Any], tangents: Sequence[Any], *, beside: bool) -> Any:
        dots = [ad.instantiate_zeros(tangent) for tangent in tangents]
        return _scaled_root_jvp(((),), beside, ([list(leaves)],), ([dots],))

    accelerator, cpus, cpu = (
        mlir.lower_fun(reading, multiple_results=True)
        for reading in (
            lambda *leaves, beside: _read_once(((),), beside, [list(leaves)]),
            lambda *leaves, beside: _read_twice(((),), False, [list(leaves)]),
            lambda *leaves, beside: _read_twice(((),), len(leaves) > 1, [_small_ones_joined(leaves)]),
        )
    )

    def on_cpu(ctx: Any, *leaves: Any, beside: bool) -> Any:
        lowered = (cpu if is_one_device(ctx) else cpus) if _platform.CPU else accelerator
        return lowered(ctx, *leaves, beside=beside)

    norm.def_impl(by_readings)
    norm.def_abstract_eval(types)
    ad.primitive_jvps[norm] = derived
    batching.primitive_batchers[norm] = mapped
    mlir.register_lowering(norm, accelerator)
    mlir.register_lowering(norm, on_cpu, platform="cpu")
    return norm


def _read_once(axes: Axes, beside: bool, groups: list[list[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """From three sums at once, without a loop, whose operands an accelerator would write out."""
    dtype = accumulator([x for group in groups for x in group], real=True)
    parts = [banded_sums(leaves, dtype, own, beside) for leaves, own in zip(groups, axes, strict=True)]
    return join_bands(functools.reduce(jax.lax.add, parts))


def _read_twice(axes: Axes, in_a_loop: bool, groups: list[list[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """From a plain sum of squares; if it vanished or overflowed, from another one of scaled numbers.

    Of several leaves on one device in a loop, whose kernels serve both readings. With a branch, clip and Adam
    of 12 leaves took 15 % more time to compile (`python -m benchmarks.behind --only compile`). Of one leaf in
    a branch: with a loop, LAMB of 80 leaves takes a quarter more time to compile. On several devices in a
    branch, so that many norms are communicated together.
    """
    leaves = [x for group in groups for x in group]
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

    if not in_a_loop:
        plain = square_of()
        shift = shift_after(plain)
        root = jax.lax.cond(shift == one, lambda: jnp.sqrt(plain), lambda: jnp.sqrt(square_of(shift)))
        return root, one / shift
    begin: Any = (one, one, np.asarray(True))
    shift, square, _ = jax.lax.while_loop(lambda carry: carry[2], read, begin)
    return jnp.sqrt(square), one / shift


# Numbers of a leaf, and of all leaves that are joined: the copy is 2 MiB of float32.
_SMALL, _JOINED = 2**14, 2**19


def _small_ones_joined(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """The leaves, with one vector for all small ones: kernels of their own took longer to call than to run.

    PPO with clip and Adam has 68 kinds of kernels, not 81 (`python -m benchmarks.compiling --only ppo`).
    """

    def is_small(x: jax.Array) -> bool:
        # The size of a symbolic shape cannot be compared with a number.
        return isinstance(x.size, int) and x.size <= _SMALL

    small = [x for x in leaves if is_small(x)]
    if len(small) < 2 or sum(x.size for x in small) > _JOINED:
        return list(leaves)
    dtype = accumulator(leaves, real=True)
    parts = [part for x in small for part in ((x.real, x.imag) if is_complex(x.dtype) else (x,))]
    vector = jnp.concatenate([part.astype(dtype).reshape(-1) for part in parts])
    return [vector, *(x for x in leaves if not is_small(x))]


@scaled_root.defjvp
def _scaled_root_jvp(axes: Axes, beside: bool, primals: Any, tangents: Any) -> Any:
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
def _largest_number(row: tuple[jax.Array]) -> jax.Array:
    return jnp.max(_widen(jnp.abs(row[0])), initial=0)


@jax.jit
def _largest(row: tuple[jax.Array]) -> jax.Array:
    largest = _largest_number(row)
    # A maximum of thousands of numbers leaves a NaN out on a CPU.
    is_nan = jnp.isnan(_zero_if_finite(row)) & (largest < np.inf)
    return jnp.where(is_nan, np.asarray(np.nan, largest.dtype), largest)


@jax.jit
def _zero_if_finite(row: tuple[jax.Array]) -> jax.Array:
    """0, or NaN if a number is not finite, in one kernel. XLA would write out a select or `isfinite`."""
    x = _widen(row[0])
    return jnp.sum(x - x)


def _largest_in_pairs(parts: list[jax.Array]) -> jax.Array:
    return pairwise_reduce(jnp.maximum, parts)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(compute_dtype(x.dtype))
