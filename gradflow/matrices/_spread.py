"""Matrices that lie in pieces on a mesh: each device gets whole ones of its own, and the results go back.

Leaves of one shape, dtype and sharding are stacked. One all-to-all gives each device its share of them as
whole matrices, one brings the results back. Each device sends two shares: 2 / N of the matrices' bytes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gradflow._calls._context import context, stage_name
from gradflow.matrices._matrix import WHOLE, MatrixAxes

Names = tuple[str, ...]


class Spreading(NamedTuple):
    """What `spread` says of its parameters: the mesh, and the axes that cut each of them, by path.

    `cuts` is None where shardings are not known. `share` has axes along which work is shared besides.
    """

    mesh: Any
    cuts: Mapping[tuple[str, ...], tuple[Names, ...]] | None
    share: Names


class SpreadGroup(NamedTuple):
    """Matrices that are exchanged together: their number and sides, along which axes, and to how many."""

    stage: str
    matrices: int
    shape: tuple[int, ...]
    axes: Names
    devices: int
    padded: int

    def __str__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        padding = f", padded to {self.padded}" if self.padded > self.matrices else ""
        along = ", ".join(self.axes)
        return f"{self.stage}: {self.matrices} of {sides} over {self.devices} devices along {along}{padding}"


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a leaf is cut: the mesh, and for each of its axes the mesh's axes that cut it.

    `cuts` is None where that is not known; `share` as in `Spreading`.
    """

    mesh: Any
    cuts: tuple[Names, ...] | None
    share: Names = ()


@contextmanager
def spreading(spread: Spreading) -> Iterator[None]:
    """Rules on matrices in this block share out the parameters' matrices over the mesh."""
    before, context.spread = context.spread, spread
    try:
        yield
    finally:
        context.spread = before


@contextmanager
def recording_spread() -> Iterator[tuple[list[SpreadGroup], list[Any]]]:
    """Collects what is exchanged in this block, and what `shard_state` leaves whole."""
    before = context.spread_groups, context.whole_leaves
    context.spread_groups, context.whole_leaves = [], []
    try:
        yield context.spread_groups, context.whole_leaves
    finally:
        context.spread_groups, context.whole_leaves = before


def is_cut_anywhere(leaf: Any) -> bool:
    """Whether a leaf may be in pieces: inside of `spread`, or on a mesh with explicit axes."""
    if context.spread is not None:
        return True
    return isinstance(leaf, jax.Array) and bool(jax.typeof(leaf).sharding.mesh.explicit_axes)


def cut_of(leaf: jax.Array, path: tuple[str, ...], axes: MatrixAxes) -> Cut | None:
    """How a leaf is cut into pieces; None if each device has all of it, and shares no work."""
    if axes == WHOLE or jax.sharding.get_abstract_mesh().manual_axes:
        return None
    asked: Spreading | None = context.spread
    own: Any = jax.typeof(leaf).sharding
    if own.mesh.explicit_axes:
        if set(own.mesh.explicit_axes) != set(own.mesh.axis_names):
            return None
        found = Cut(own.mesh, spec_names(own.spec, leaf.ndim), asked.share if asked else ())
    elif asked is None:
        return None
    elif asked.cuts is None:
        return Cut(asked.mesh, None)
    elif path not in asked.cuts:
        return None
    else:
        found = Cut(asked.mesh, asked.cuts[path], asked.share)
    return found if _used(found) or found.share else None


def spec_names(spec: Any, ndim: int) -> tuple[Names, ...]:
    """A `PartitionSpec` as the names of mesh axes for each axis of an array."""
    entries = [() if e is None else (e,) if isinstance(e, str) else tuple(e) for e in spec]
    return tuple(entries[:ndim]) + ((),) * (ndim - len(entries))


def _used(cut: Cut) -> set[str]:
    return {name for names in cut.cuts or () for name in names}


def _inside(cut: Cut, ndim: int, axes: MatrixAxes) -> Names:
    """The mesh axes that cut the matrices themselves, rather than their number, in order."""
    batch = axes.batch(ndim)
    return tuple(name for k, names in enumerate(cut.cuts or ()) if k not in batch for name in names)


class _Plan(NamedTuple):
    """The exchange of one group of leaves.

    `order` brings the axes that count matrices to the front, `sides` are those of the others, `parts` by how
    much each of them is cut, and `axes` are the matrices' axes in (count, *sides).
    """

    mesh: Any
    spec: PartitionSpec | None
    order: tuple[int, ...]
    batch: tuple[int, ...]
    sides: tuple[int, ...]
    parts: tuple[int, ...]
    inside: Names
    share: Names
    axes: MatrixAxes


def _plan(cut: Cut, shape: tuple[int, ...], axes: MatrixAxes) -> _Plan:
    ndim = len(shape)
    batch = axes.batch(ndim)
    rest = tuple(k for k in range(ndim) if k not in batch)
    moved = {k: 1 + place for place, k in enumerate(rest)}
    inner = MatrixAxes(
        tuple(moved[k] for k in axes.reduction),
        tuple(moved[k] for k in axes.output),
        tuple((moved[k], sizes) for k, sizes in axes.split),
    )
    sizes = cut.mesh.shape
    names = cut.cuts or ((),) * ndim
    parts = tuple(math.prod(sizes[name] for name in names[k]) for k in rest)
    spec = None if cut.cuts is None else PartitionSpec(*(each or None for each in names))
    share = tuple(name for name in cut.share if name not in _used(cut))
    counts = tuple(shape[k] for k in batch)
    sides = tuple(shape[k] for k in rest)
    return _Plan(
        cut.mesh, spec, (*batch, *rest), counts, sides, parts, _inside(cut, ndim, axes), share, inner
    )


def call_spread(
    run: Callable[[MatrixAxes], Callable[[tuple[jax.Array, ...], Any], tuple[jax.Array, ...]]],
    cut: Cut,
    axes: MatrixAxes,
    rows: Sequence[tuple[jax.Array, ...]],
    operands: Any,
) -> list[tuple[jax.Array, ...]]:
    """For each row of leaves, all of one shape and cut alike, what `run(axes)(row, operands)` gives.

    `run(axes)` returns a function of leaves (count, *sides) whose matrices have these axes.
    """
    shape = rows[0][0].shape
    plan = _plan(cut, shape, axes)
    _record(plan, shape, len(rows))
    flat = tuple(leaf for row in rows for leaf in row)
    results = _exchange(run, plan, len(rows), len(rows[0]))(flat, operands)
    width = len(results) // len(rows)
    return [tuple(results[i * width : (i + 1) * width]) for i in range(len(rows))]


def _along(plan: _Plan) -> Names:
    """The mesh axes along which matrices are shared out."""
    return tuple(plan.mesh.axis_names) if plan.spec is None else (*plan.inside, *plan.share)


def _devices(plan: _Plan) -> int:
    return math.prod(plan.mesh.shape[name] for name in _along(plan))


def _record(plan: _Plan, shape: tuple[int, ...], rows: int) -> None:
    if context.spread_groups is None:
        return
    n = _devices(plan)
    if n == 1:
        return
    count = rows * math.prod(plan.batch)
    group = SpreadGroup(stage_name(), count, plan.sides, _along(plan), n, -(-count // n) * n)
    if group not in context.spread_groups:
        context.spread_groups.append(group)


@functools.lru_cache(maxsize=256)
def _exchange(run: Any, plan: _Plan, rows: int, width: int) -> Callable[..., tuple[jax.Array, ...]]:
    """The jitted exchange of `rows * width` leaves."""

    def local(leaves: tuple[jax.Array, ...], operands: Any) -> tuple[jax.Array, ...]:
        columns = [_stacked(plan, leaves[k::width]) for k in range(width)]
        count = columns[0][0].shape[0]
        results = run(plan.axes)(tuple(_share_out(plan, x) for x, _ in columns), operands)
        back = [_split(plan, columns[0][1], _bring_back(plan, y, count), rows) for y in results]
        return tuple(leaf for row in zip(*back, strict=True) for leaf in row)

    if plan.spec is not None:
        mapped = functools.partial(
            jax.shard_map, local, mesh=plan.mesh, in_specs=(plan.spec, PartitionSpec()), out_specs=plan.spec,
            # What is gathered along the axes of `share` is equal on all devices, which types cannot say.
            check_vma=not plan.share,
        )  # fmt: skip
        return jax.jit(mapped())

    everywhere = PartitionSpec(tuple(plan.mesh.axis_names))
    n = _devices(plan)

    def unknown(leaves: tuple[jax.Array, ...], operands: Any) -> tuple[jax.Array, ...]:
        columns = [_stacked(plan, leaves[k::width]) for k in range(width)]
        count = columns[0][0].shape[0]
        mapped = jax.shard_map(
            run(plan.axes), mesh=plan.mesh, in_specs=(everywhere, PartitionSpec()), out_specs=everywhere
        )
        results = mapped(tuple(_padded(x, n) for x, _ in columns), operands)
        back = [_split(plan, columns[0][1], y[:count], rows) for y in results]
        return tuple(leaf for row in zip(*back, strict=True) for leaf in row)

    return jax.jit(unknown)


def _stacked(plan: _Plan, leaves: Sequence[jax.Array]) -> tuple[jax.Array, tuple[int, ...]]:
    """The leaves' matrices as (count, *sides), and the shape of a leaf whose axes have been reordered."""
    moved = [x.transpose(plan.order) for x in leaves]
    shape = moved[0].shape
    sides = shape[len(plan.batch) :]
    return jnp.concatenate([x.reshape(-1, *sides) for x in moved]), shape


def _split(plan: _Plan, shape: tuple[int, ...], stack: jax.Array, rows: int) -> list[jax.Array]:
    """The inverse of `_stacked`."""
    size = stack.shape[0] // rows
    back = tuple(plan.order.index(k) for k in range(len(shape)))
    parts = [stack[i * size : (i + 1) * size] for i in range(rows)]
    return [part.reshape(shape).transpose(back) for part in parts]


def _padded(x: jax.Array, n: int) -> jax.Array:
    missing = -x.shape[0] % n
    return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))) if missing else x


def _share_out(plan: _Plan, x: jax.Array) -> jax.Array:
    """(count, *pieces) on each device -> (count / N, *sides), whole."""
    x = _padded(x, _devices(plan))
    for name in plan.share:
        size = x.shape[0] // plan.mesh.shape[name]
        x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(name) * size, size)
    if not plan.inside:
        return x
    n = math.prod(plan.parts)
    x = x.reshape(n, x.shape[0] // n, *x.shape[1:])
    x = jax.lax.all_to_all(x, plan.inside, 0, 0)
    x = x.reshape(*plan.parts, *x.shape[1:])
    k = len(plan.parts)
    pairs = [axis for i in range(k) for axis in (i, k + 1 + i)]
    return x.transpose(k, *pairs).reshape(x.shape[k], *plan.sides)


def _bring_back(plan: _Plan, y: jax.Array, count: int) -> jax.Array:
    """The inverse of `_share_out`, without the padding."""
    if plan.inside:
        n, k = math.prod(plan.parts), len(plan.parts)
        pieces = tuple(side // part for side, part in zip(plan.sides, plan.parts, strict=True))
        pairs = [size for pair in zip(plan.parts, pieces, strict=True) for size in pair]
        y = y.reshape(y.shape[0], *pairs)
        order = (*range(1, 2 * k, 2), 0, *range(2, 2 * k + 1, 2))
        y = y.transpose(order).reshape(n, y.shape[0], *pieces)
        y = jax.lax.all_to_all(y, plan.inside, 0, 0)
        y = y.reshape(n * y.shape[1], *pieces)
    for name in reversed(plan.share):
        y = jax.lax.all_gather(y, name, axis=0, tiled=True)
    return y[:count]
