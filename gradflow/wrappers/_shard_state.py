"""ZeRO: each device of an axis keeps a piece of the state, and updates that piece of the parameters."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gradflow._calls._context import context, stage_name
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.matrices._spread import Names, spec_names
from gradflow.tree._paths import segment, show
from gradflow.wrappers._specs import (
    Path,
    check_axes,
    check_mesh,
    check_same_mesh,
    concrete_sharding,
    cuts_by_path,
    leaves_by_path,
    read_specs,
)


class Shards(NamedTuple):
    """The mesh, and for each parameter, by path, the mesh axes that cut each of its axes."""

    mesh: Any
    cuts: Mapping[Path, tuple[Names, ...]]


class WholeLeaf(NamedTuple):
    """A leaf that stays whole on the devices of the axes, since they divide none of its sides."""

    stage: str
    path: str
    shape: tuple[int, ...]
    axes: Names
    devices: int

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.path} of shape {self.shape} is whole on each of the {self.devices} devices "
            f"along {', '.join(self.axes)}"
        )


class _Leaf(NamedTuple):
    """A leaf's shape, the axes that cut it anyway (None: not known), and that cut its pieces."""

    shape: tuple[int, ...]
    own: tuple[Names, ...] | None
    pieces: tuple[Names, ...] | None


@transformation
def shard_state(
    inner: GradientTransformation,
    mesh: Any = None,
    axis: str | tuple[str, ...] = "data",
    specs: Any = None,
) -> Pair:
    """ZeRO: each device along `axis` keeps 1 / N of the state, and computes 1 / N of the update.

        tx = shard_state(adamw(1e-3), mesh)
        state = jax.jit(tx.init)(params)

    Inside, gradients, state and parameters are in pieces along `axis`. The updates are whole again: one
    all-gather of the parameters' bytes. On a TPU the gradients of a data-parallel loss are reduce-scattered.
    Rules on matrices need `shard_state(spread(muon(0.02)), mesh)`: two all-to-alls in the place of gathers.

    A leaf is cut along its first side that is not cut and that N divides, else along one that is cut and
    has N pieces more. One without such a side stays whole; `sharding.communication` lists it.

    Args:
      inner: any transformation.
      mesh: the mesh of the parameters; by default that of `jax.set_mesh`. Without any, nothing changes.
      axis: an axis of the mesh along which parameters are copies, or a tuple of such axes.
      specs: how the parameters are cut along other axes: a tree like them, or a prefix of one, of
        `PartitionSpec` or `NamedSharding`. Not needed where mesh axes are explicit, since types say it.

    Elementwise rules give the updates and states of `inner`, bit for bit. Raises ValueError for an axis that
    the mesh does not have, for parameters on another mesh, and inside `shard_map`.
    Source: Rajbhandari et al. 2020, arXiv:1910.02054.

    >>> import gradflow as gf
    >>> print(gf.shard_state(gf.adamw(1e-3), axis="data"))
    shard_state(adamw(0.001))
    """
    names = axis if isinstance(axis, tuple) else (axis,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"shard_state: argument 'axis' must be the name of a mesh axis or a tuple of names; "
            f"got {describe(axis)}"
        )
    check_mesh("shard_state", mesh)
    given = None if specs is None else read_specs("shard_state", specs)
    if mesh is not None:
        check_axes("shard_state", mesh, given, axis=names)

    def layout(tree: Any) -> _Layout | None:
        here: Any = jax.sharding.get_abstract_mesh()
        if here.manual_axes:
            raise ValueError(
                f"{stage_name()}: inside shard_map each device has its piece already, along "
                f"{', '.join(map(repr, here.manual_axes))}. Call this stage outside of shard_map, under jit"
            )
        here = here if mesh is None else mesh
        if here.empty:
            return None
        check_axes("shard_state", here, given, axis=names)
        return _Layout(here, names, given, tree)

    def init(params: Params) -> OptState:
        found = layout(params)
        if found is None:
            return inner.init(params)
        with _sharing(found):
            return found.place_state(inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        found = layout(updates if params is None else params)
        if found is None:
            return inner.update(updates, state, params, **extra)
        pieces = found.cut(updates)
        own = None if params is None else found.cut(params)
        with _sharing(found):
            new, state = inner.update(pieces, found.place_state(state), own, **extra)
        return found.join(new), found.place_state(state)

    return init, update


@contextmanager
def _sharing(layout: "_Layout") -> Iterator[None]:
    """Makes the pieces known to a `spread` in this block, and to `stacked`, which refuses them."""
    before = context.shards
    cuts = {path: leaf.pieces or leaf.own or () for path, leaf in layout.leaves.items()}
    context.shards = Shards(layout.mesh, cuts)
    try:
        yield
    finally:
        context.shards = before


class _Layout:
    """Where the pieces of all leaves of a tree lie."""

    def __init__(self, mesh: Any, axes: Names, specs: Mapping[Path, PartitionSpec] | None, tree: Any) -> None:
        self.mesh, self.axes = mesh, axes
        self.devices = math.prod(mesh.shape[name] for name in axes)
        known = None if specs is None else cuts_by_path(mesh, specs, tree)
        self.leaves: dict[Path, _Leaf] = {}
        leaves = leaves_by_path(tree)
        check_same_mesh(mesh, leaves)
        for path, leaf in leaves.items():
            own = _typed_cut(leaf) if known is None else known[path]
            self._check(path, leaf, own)
            pieces = self._pieces(leaf.shape, own)
            self.leaves[path] = _Leaf(leaf.shape, own, pieces)
            if pieces is None and context.whole_leaves is not None:
                whole = WholeLeaf("shard_state", show("/".join(path)), leaf.shape, axes, self.devices)
                if whole not in context.whole_leaves:
                    context.whole_leaves.append(whole)

    def _check(self, path: Path, leaf: Any, own: tuple[Names, ...] | None) -> None:
        """Raises ValueError for a leaf that is cut in a way that traces do not see."""
        at, sharding = show("/".join(path)), concrete_sharding(leaf)
        if own is None and sharding is not None and not sharding.is_fully_replicated:
            raise ValueError(
                f"{stage_name()}: argument 'specs' must be given, because the leaf at {at} is cut: "
                f"{sharding.spec}. Pass specs=jax.tree.map(lambda p: p.sharding.spec, params)"
            )

    def _pieces(self, shape: tuple[int, ...], own: tuple[Names, ...] | None) -> tuple[Names, ...] | None:
        """The axes that cut a leaf's pieces; None where it stays whole."""
        cut = own if own is not None else ((),) * len(shape)
        used = {name for names in cut for name in names}
        axes = tuple(name for name in self.axes if name not in used)
        if not axes:
            return cut
        n = math.prod(self.mesh.shape[name] for name in axes)
        for side in sorted(range(len(shape)), key=lambda k: bool(cut[k])):
            parts = math.prod(self.mesh.shape[name] for name in cut[side])
            if shape[side] and shape[side] % (n * parts) == 0:
                return (*cut[:side], (*cut[side], *axes), *cut[side + 1 :])
        return None

    def cut(self, tree: Any) -> Any:
        """A tree like the parameters, in pieces."""
        return self._map(
            tree, lambda x, leaf: x if leaf.pieces is None else self._place(x, leaf.pieces, leaf)
        )

    def join(self, tree: Any) -> Any:
        """A tree like the parameters, as those lie."""
        # Without the barrier XLA on a TPU gathers what some updates are computed from, such as moments: 75 MB
        # for 34 MB of parameters. With one for each leaf it still does.
        tree = jax.lax.optimization_barrier(tree)

        def joined(x: Any, leaf: _Leaf) -> Any:
            return x if leaf.pieces is None else self._place(x, leaf.own or ((),) * x.ndim, leaf)

        return self._map(tree, joined)

    def _map(self, tree: Any, f: Any) -> Any:
        def one(keys: Any, x: Any) -> Any:
            leaf = self.leaves.get(tuple(map(segment, keys)))
            return x if leaf is None or leaf.shape != getattr(x, "shape", None) else f(x, leaf)

        return jax.tree_util.tree_map_with_path(one, tree)

    def place_state(self, state: OptState) -> OptState:
        """A state whose arrays that are shaped like their parameter are in pieces."""

        def one(keys: Any, x: Any) -> Any:
            leaf = self._parameter_of(tuple(map(segment, keys)), getattr(x, "shape", ()))
            if leaf is None or leaf.pieces is None:
                return x
            if not isinstance(x, jax.core.Tracer):
                here: Any = jax.sharding.get_mesh() if isinstance(self.mesh, AbstractMesh) else self.mesh
                return jax.device_put(x, NamedSharding(here, _spec(leaf.pieces)))
            return self._place(x, leaf.pieces, leaf)

        return jax.tree_util.tree_map_with_path(one, state)

    def _parameter_of(self, path: Path, shape: tuple[int, ...]) -> _Leaf | None:
        """The parameter of this shape whose path is the longest part of a path in the state."""
        spans = [(i, j) for i in range(len(path) + 1) for j in range(i, len(path) + 1)]
        for i, j in sorted(spans, key=lambda span: span[0] - span[1]):
            leaf = self.leaves.get(path[i:j])
            if leaf is not None and leaf.shape == shape:
                return leaf
        return None

    def _place(self, x: Any, cut: tuple[Names, ...], leaf: _Leaf) -> Any:
        """An array cut along the axes of this stage as `cut` says; along others as it is."""
        sharding: Any = jax.typeof(x).sharding
        if sharding.mesh.explicit_axes:
            return jax.sharding.reshard(x, NamedSharding(sharding.mesh, _spec(cut)))
        pieces = leaf.pieces or cut
        free = PartitionSpec.UNCONSTRAINED
        changed = [bool(set(names) & set(self.axes)) for names in pieces]
        spec = PartitionSpec(
            *((names or None) if mine else free for names, mine in zip(cut, changed, strict=True))
        )
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def _spec(cut: tuple[Names, ...]) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in cut))


def _typed_cut(leaf: Any) -> tuple[Names, ...] | None:
    """The axes that cut a leaf, as its type says; None where types have no shardings."""
    sharding: Any = jax.typeof(leaf).sharding
    return spec_names(sharding.spec, leaf.ndim) if sharding.mesh.explicit_axes else None
