"""One all-to-all gives each device whole matrices of its own, and one brings the results back.

Leaves of one shape, dtype and sharding are stacked. What belongs to a matrix goes with it: moments in its
shape, and factors, which are cut too. Each device sends two shares: 1 / N of what a rule reads, and of what
it returns.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._calls._context import context, stage_name
from gradflow.matrices._matrix import WHOLE, WHOLES, MatrixAxes
from gradflow.matrices._spread import Cut, Names, SpreadGroup, batch_of, factor_cut, inside, used

# `run(axes, sides)(arrays, operands)` for stacks: of leaves (count, *sides), whose matrices have these axes.
Run = Callable[[MatrixAxes, tuple[int, ...]], Callable[[tuple[jax.Array, ...], Any], tuple[jax.Array, ...]]]


class _Column(NamedTuple):
    """An array for each leaf: how it is laid out, and how it is taken apart.

    `order` brings the axes that count matrices to the front, `counts` is their number, and `parts` says by
    how much each of the others is cut; None if each device has the whole array.
    """

    spec: PartitionSpec
    order: tuple[int, ...]
    counts: int
    sides: tuple[int, ...]
    parts: tuple[int, ...] | None


class _Plan(NamedTuple):
    """The exchange of one group of leaves: its columns, and the mesh axes along which it goes.

    `is_tracked` says whether types can tell along which axes results are equal.
    """

    mesh: Any
    columns: tuple[_Column, ...]
    inside: Names
    share: Names
    axes: MatrixAxes
    sides: tuple[int, ...]
    is_tracked: bool


def call_spread(
    run: Run,
    cut: Cut,
    axes: MatrixAxes,
    shape: tuple[int, ...],
    rows: Sequence[tuple[jax.Array, ...]],
    is_leaf: tuple[bool, ...],
    operands: Any,
) -> list[tuple[jax.Array, ...]]:
    """For each row of arrays, all of one kind and cut alike, what `run` gives for their stacks.

    `is_leaf` says which columns have the shape of a leaf. The results are like the first columns.
    """
    along = tuple(cut.mesh.axis_names) if cut.cuts is None else inside(cut, len(shape), axes)
    share = () if cut.cuts is None else tuple(name for name in cut.share if name not in used(cut))
    columns = tuple(_column(cut, shape, axes, x.shape, own) for x, own in zip(rows[0], is_leaf, strict=True))
    batch = batch_of(axes, len(shape))
    sides = tuple(side for k, side in enumerate(shape) if k not in batch)
    plan = _Plan(
        cut.mesh, columns, along, share, _inner_axes(axes, len(shape)), sides, not share and all(is_leaf)
    )
    _record(plan, len(rows) * math.prod(shape[k] for k in batch))
    flat = tuple(_laid(x, column) for row in rows for x, column in zip(row, columns, strict=True))
    call = _unknown if cut.cuts is None else _exchange
    results = call(run, plan, len(rows))(flat, operands)
    width = len(results) // len(rows)
    return [tuple(results[i * width : (i + 1) * width]) for i in range(len(rows))]


def _column(
    cut: Cut, leaf: tuple[int, ...], axes: MatrixAxes, shape: tuple[int, ...], is_leaf: bool
) -> _Column:
    ndim = len(shape)
    batch = batch_of(axes, len(leaf)) if is_leaf else _stack_axes(leaf, axes)
    own = cut if is_leaf else factor_cut(cut, leaf, axes, shape)
    cuts = ((),) * ndim if own is None or own.cuts is None else own.cuts
    rest = tuple(k for k in range(ndim) if k not in batch)
    parts = tuple(math.prod(cut.mesh.shape[name] for name in cuts[k]) for k in rest)
    is_cut = is_leaf or any(cuts[k] for k in rest)
    return _Column(
        PartitionSpec(*(each or None for each in cuts)), (*batch, *rest), len(batch),
        tuple(shape[k] for k in rest), parts if is_cut else None,
    )  # fmt: skip


def _stack_axes(leaf: tuple[int, ...], axes: MatrixAxes) -> tuple[int, ...]:
    return (0,) if math.prod(leaf[k] for k in batch_of(axes, len(leaf))) > 1 else ()


def _inner_axes(axes: MatrixAxes, ndim: int) -> MatrixAxes:
    """The matrices' axes in (count, *sides)."""
    if axes in (WHOLE, WHOLES):
        return WHOLE
    batch = axes.batch(ndim)
    moved = {k: 1 + place for place, k in enumerate(k for k in range(ndim) if k not in batch)}
    return MatrixAxes(
        tuple(moved[k] for k in axes.reduction),
        tuple(moved[k] for k in axes.output),
        tuple((moved[k], sizes) for k, sizes in axes.split),
    )


def _laid(x: jax.Array, column: _Column) -> jax.Array:
    """An array as `shard_map` takes it, where shardings are part of types."""
    sharding: Any = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, column.spec))


def _devices(plan: _Plan) -> int:
    return math.prod(plan.mesh.shape[name] for name in (*plan.inside, *plan.share))


def _record(plan: _Plan, count: int) -> None:
    n = _devices(plan)
    if context.spread_groups is None or n == 1:
        return
    group = SpreadGroup(stage_name(), count, plan.sides, (*plan.inside, *plan.share), n, -(-count // n) * n)
    if group not in context.spread_groups:
        context.spread_groups.append(group)


@functools.lru_cache(maxsize=256)
def _exchange(run: Run, plan: _Plan, rows: int) -> Callable[..., tuple[jax.Array, ...]]:
    """The jitted exchange of `rows` rows."""
    width = len(plan.columns)

    def local(leaves: tuple[jax.Array, ...], operands: Any) -> tuple[jax.Array, ...]:
        stacks = [_stacked(column, leaves[k::width]) for k, column in enumerate(plan.columns)]
        count = stacks[0].shape[0]
        results = run(plan.axes, plan.sides)(tuple(_share_out(plan, stacks)), operands)
        back = _bring_back(plan, list(results), count)
        lists = [
            _split(column, leaves[k].shape, y, rows)
            for k, (column, y) in enumerate(zip(plan.columns, back, strict=False))
        ]
        return tuple(leaf for row in zip(*lists, strict=True) for leaf in row)

    def call(leaves: tuple[jax.Array, ...], operands: Any) -> tuple[jax.Array, ...]:
        specs = tuple(column.spec for column in plan.columns)
        outputs: Any = specs[0]
        if len(set(specs)) > 1:
            ones = [
                jax.ShapeDtypeStruct((1, *c.sides), x.dtype)
                for c, x in zip(plan.columns, leaves, strict=False)
            ]
            made = jax.eval_shape(run(plan.axes, plan.sides), tuple(ones), operands)
            outputs = specs[: len(made)] * rows
        mapped = jax.shard_map(
            local,
            mesh=plan.mesh,
            in_specs=(specs * rows, PartitionSpec()),
            out_specs=outputs,
            # Types cannot say that what devices gather is equal on all of them. With factors there are
            # conditionals in the rules, whose constants are no pieces.
            check_vma=plan.is_tracked,
        )
        return mapped(leaves, operands)

    return jax.jit(call)


@functools.lru_cache(maxsize=256)
def _unknown(run: Run, plan: _Plan, rows: int) -> Callable[..., tuple[jax.Array, ...]]:
    """The same where shardings are not known: the partitioner finds how to give each device its matrices."""
    everywhere = PartitionSpec(tuple(plan.mesh.axis_names))
    width, n = len(plan.columns), _devices(plan)

    def call(leaves: tuple[jax.Array, ...], operands: Any) -> tuple[jax.Array, ...]:
        stacks = [_stacked(column, leaves[k::width]) for k, column in enumerate(plan.columns)]
        count = stacks[0].shape[0]
        mapped = jax.shard_map(
            run(plan.axes, plan.sides),
            mesh=plan.mesh,
            in_specs=(everywhere, PartitionSpec()),
            out_specs=everywhere,
        )
        results = mapped(tuple(_padded(x, n) for x in stacks), operands)
        lists = [
            _split(column, leaves[k].shape, y[:count], rows)
            for k, (column, y) in enumerate(zip(plan.columns, results, strict=False))
        ]
        return tuple(leaf for row in zip(*lists, strict=True) for leaf in row)

    return jax.jit(call)


def _stacked(column: _Column, leaves: Sequence[jax.Array]) -> jax.Array:
    """The leaves' matrices as (count, *sides)."""
    moved = [x.transpose(column.order) for x in leaves]
    sides = moved[0].shape[column.counts :]
    return jnp.concatenate([x.reshape(-1, *sides) for x in moved])


def _split(column: _Column, shape: tuple[int, ...], stack: jax.Array, rows: int) -> list[jax.Array]:
    """The inverse of `_stacked`, for leaves of this shape."""
    size = stack.shape[0] // rows
    back = tuple(column.order.index(k) for k in range(len(shape)))
    moved = tuple(shape[k] for k in column.order)
    parts = [stack[i * size : (i + 1) * size] for i in range(rows)]
    return [part.reshape(moved).transpose(back) for part in parts]


def _padded(x: jax.Array, n: int) -> jax.Array:
    """A stack of a number of matrices that n divides: the last one is repeated."""
    missing = -x.shape[0] % n
    return jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))]) if missing else x


def _share_out(plan: _Plan, stacks: list[jax.Array]) -> list[jax.Array]:
    """(count, *pieces) on each device -> (count / N, *sides), whole."""
    mine = [_mine(plan, _padded(x, _devices(plan)), plan.share) for x in stacks]
    if not plan.inside:
        return mine
    n = _inside_devices(plan)
    parts = [c.parts is not None for c in plan.columns]
    sent = [x.reshape(n, x.shape[0] // n, -1) for x, moves in zip(mine, parts, strict=True) if moves]
    arrived = iter(_all_to_all(plan, sent))
    return [
        _assembled(next(arrived), c) if moves else _mine(plan, x, plan.inside)
        for x, c, moves in zip(mine, plan.columns, parts, strict=True)
    ]


def _bring_back(plan: _Plan, results: list[jax.Array], count: int) -> list[jax.Array]:
    """The inverse of `_share_out`, without the padding. Every device gets all of what it has whole."""
    columns = plan.columns[: len(results)]
    if plan.inside:
        n = _inside_devices(plan)
        sent = [
            jnp.broadcast_to(y.reshape(1, y.shape[0], -1), (n, y.shape[0], math.prod(y.shape[1:])))
            if c.parts is None
            else _apart(y, c)
            for y, c in zip(results, columns, strict=True)
        ]
        results = [x.reshape(-1, x.shape[-1]) for x in _all_to_all(plan, sent)]
    for name in reversed(plan.share):
        results = [jax.lax.all_gather(y, name, axis=0, tiled=True) for y in results]
    return [y.reshape(y.shape[0], *_piece(c))[:count] for y, c in zip(results, columns, strict=True)]


def _mine(plan: _Plan, x: jax.Array, along: Names) -> jax.Array:
    """The part of a stack that each device has whole which is its own."""
    if not along:
        return x
    size = x.shape[0] // math.prod(plan.mesh.shape[name] for name in along)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(along) * size, size)


def _inside_devices(plan: _Plan) -> int:
    return math.prod(plan.mesh.shape[name] for name in plan.inside)


def _all_to_all(plan: _Plan, arrays: list[jax.Array]) -> list[jax.Array]:
    """All arrays (N, count, numbers) in one all-to-all for each dtype."""
    results: list[Any] = [None] * len(arrays)
    for dtype in dict.fromkeys(x.dtype for x in arrays):
        places = [k for k, x in enumerate(arrays) if x.dtype == dtype]
        own = [arrays[k] for k in places]
        moved = jax.lax.all_to_all(
            own[0] if len(own) == 1 else jnp.concatenate(own, axis=2), plan.inside, 0, 0
        )
        start = 0
        for k in places:
            size = arrays[k].shape[2]
            results[k] = moved[:, :, start : start + size]
            start += size
    return results


def _piece(column: _Column) -> tuple[int, ...]:
    parts = column.parts or (1,) * len(column.sides)
    return tuple(side // part for side, part in zip(column.sides, parts, strict=True))


def _assembled(x: jax.Array, column: _Column) -> jax.Array:
    """(N, count, numbers of a piece) -> (count, *sides)."""
    parts, k, count = column.parts or (), len(column.sides), x.shape[1]
    x = x.reshape(*parts, count, *_piece(column))
    pairs = [axis for i in range(k) for axis in (i, k + 1 + i)]
    return x.transpose(k, *pairs).reshape(count, *column.sides)


def _apart(y: jax.Array, column: _Column) -> jax.Array:
    """The inverse of `_assembled`."""
    parts, k, count = column.parts or (), len(column.sides), y.shape[0]
    pairs = [size for pair in zip(parts, _piece(column), strict=True) for size in pair]
    order = (*range(1, 2 * k, 2), 0, *range(2, 2 * k + 1, 2))
    return y.reshape(count, *pairs).transpose(order).reshape(math.prod(parts), count, -1)
