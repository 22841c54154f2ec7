"""Matrices that lie in pieces on a mesh: how leaves are cut, and what `spread` and `communication` know."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gradflow._calls._context import context
from gradflow.matrices._matrix import WHOLE, WHOLES, MatrixAxes

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
    """How a leaf is cut into pieces; None if each device has all of it, and shares no work.

    A leaf that a rule takes whole is one matrix of any number of sides; a vector stays where it is.
    """
    is_vector = (axes == WHOLE and leaf.ndim < 2) or (axes == WHOLES and leaf.ndim < 3)
    if is_vector or jax.sharding.get_abstract_mesh().manual_axes:
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
    return found if used(found) or found.share else None


def spec_names(spec: Any, ndim: int) -> tuple[Names, ...]:
    """A `PartitionSpec` as the names of mesh axes for each axis of an array."""
    entries = [() if e is None else (e,) if isinstance(e, str) else tuple(e) for e in spec]
    return tuple(entries[:ndim]) + ((),) * (ndim - len(entries))


def used(cut: Cut) -> set[str]:
    """The mesh axes that cut a leaf."""
    return {name for names in cut.cuts or () for name in names}


def batch_of(axes: MatrixAxes, ndim: int) -> tuple[int, ...]:
    """The axes of a leaf that count matrices."""
    return () if axes == WHOLE else axes.batch(ndim)


def inside(cut: Cut, ndim: int, axes: MatrixAxes) -> Names:
    """The mesh axes that cut the matrices themselves, rather than their number, in order."""
    batch = batch_of(axes, ndim)
    return tuple(name for k, names in enumerate(cut.cuts or ()) if k not in batch for name in names)


def factor_cut(cut: Cut, leaf_shape: tuple[int, ...], axes: MatrixAxes, shape: tuple[int, ...]) -> Cut | None:
    """How an array of a leaf's matrices, such as a factor, is cut; None where that cannot be said.

    `shape` is that of the array: for a leaf of several matrices it is a stack. Its first side is cut along
    all axes that cut the matrices, if they divide it. A stack of layers is cut like the layers.
    """
    ndim = len(leaf_shape)
    batch = batch_of(axes, ndim)
    if cut.cuts is None or axes.split or any(cut.cuts[k] for k in batch[1:]):
        return None
    stacked = math.prod(leaf_shape[k] for k in batch) > 1
    lead = (cut.cuts[batch[0]],) if stacked else ()
    own = shape[len(lead) :]
    along = inside(cut, ndim, axes)
    parts = math.prod(cut.mesh.shape[name] for name in along)
    sides: list[Names] = [() for _ in own]
    if own and own[0] and own[0] % parts == 0:
        sides[0] = along
    return Cut(cut.mesh, (*lead, *sides), cut.share)


def laid_out(x: jax.Array, cut: Cut) -> jax.Array:
    """An array that is cut so."""
    spec = PartitionSpec(*(names or None for names in cut.cuts or ()))
    if AxisType.Explicit in cut.mesh.axis_types:
        return jax.sharding.reshard(x, NamedSharding(cut.mesh, spec))
    if isinstance(x, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(x, NamedSharding(cut.mesh, spec))
    here: Any = jax.sharding.get_mesh() if isinstance(cut.mesh, AbstractMesh) else cut.mesh
    return jax.device_put(x, NamedSharding(here, spec))
