"""Trees in one buffer for each dtype, and the layout that says where each leaf lies.

A buffer is cut into blocks of `BLOCK` numbers. Every leaf begins a block, what is left of its last one is
zero, and leaves of more axes come first, so that "matrices" and "the rest" are one run of blocks each.
"""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe

_FEW = 16  # runs of leaves that are told apart by comparing; more are looked up
BLOCK = 128  # numbers; the lanes of a TPU's vector, and a whole number of cache lines elsewhere


class Group(NamedTuple):
    """The leaves of one dtype: their indices in the tree, in the order of the buffer, and their blocks."""

    name: str
    leaves: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def size(self) -> int:
        return BLOCK * sum(self.blocks)


class Layout(NamedTuple):
    """Where each leaf of a tree lies; trees of equal structure, shapes and dtypes have equal layouts."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[Group, ...]

    def size(self, index: int) -> int:
        """How many numbers a leaf has."""
        return math.prod(self.shapes[index])

    def pieces(self, group: Group) -> list[tuple[int | None, int]]:
        """A buffer's pieces by index and length: each leaf, and the zeros behind it, which have no index."""
        pieces: list[tuple[int | None, int]] = []
        for index, blocks in zip(group.leaves, group.blocks, strict=True):
            size = self.size(index)
            pieces += [(index, size), (None, blocks * BLOCK - size)]
        return [(index, size) for index, size in pieces if size or index is not None]


@functools.lru_cache(maxsize=1024)
def _arrange(structure: Any, shapes: tuple[tuple[int, ...], ...], names: tuple[str, ...]) -> Layout:
    groups = []
    for name in dict.fromkeys(names):
        own = sorted((i for i, n in enumerate(names) if n == name), key=lambda i: -len(shapes[i]))
        blocks = tuple(-(-math.prod(shapes[i]) // BLOCK) for i in own)
        groups.append(Group(name, tuple(own), blocks))
    return Layout(structure, shapes, tuple(groups))


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A tree in one buffer for each dtype of its leaves: a pytree with these buffers as its leaves.

    Made by `pack`. `jax.tree.map` keeps the layout, so gradients, moments and updates of packed parameters
    are packed as well.
    """

    __slots__ = ("buffers", "layout")

    def __init__(self, buffers: Sequence[Any], layout: Layout) -> None:
        self.buffers = tuple(buffers)
        self.layout = layout

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        """For `jax.tree_util`."""
        return self.buffers, self.layout

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], Layout]:
        """For `jax.tree_util`."""
        keys = (jax.tree_util.GetAttrKey(group.name) for group in self.layout.groups)
        return tuple(zip(keys, self.buffers, strict=True)), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, buffers: Sequence[Any]) -> "Packed":
        """For `jax.tree_util`."""
        return cls(buffers, layout)

    def __repr__(self) -> str:
        count = len(self.layout.shapes)
        numbers = sum(map(self.layout.size, range(count)))
        held = ", ".join(describe(buffer) for buffer in self.buffers)
        return f"Packed({count} {'leaf' if count == 1 else 'leaves'}, {numbers} numbers: {held})"


def is_packed(node: Any) -> bool:
    """Whether `node` is a `Packed`."""
    return isinstance(node, Packed)


def pack(tree: Any, like: Packed | None = None) -> Packed:
    """The leaves of a tree in one buffer for each dtype.

    Equal structures, shapes and dtypes give equal layouts: packed parameters and packed gradients fit. The
    buffers are copies. With `jax.ShapeDtypeStruct` leaves the buffers are abstract too.

    Args:
      tree: any tree of numeric arrays; None stands for no leaf.
      like: a packed tree of the same structure and shapes whose layout is taken, for leaves of other dtypes.

    Raises TypeError for a leaf that is no array or a random key, ValueError where `tree` and `like` differ.
    """
    if is_packed(tree):
        raise TypeError("pack: the tree is packed already")
    leaves, structure = jax.tree.flatten(tree)
    for leaf in leaves:
        if not isinstance(getattr(leaf, "dtype", None), np.dtype):
            raise TypeError(f"pack: leaves must be numeric arrays; got {describe(leaf)}")
    shapes = tuple(tuple(np.shape(leaf)) for leaf in leaves)
    layout = _arrange(structure, shapes, tuple(leaf.dtype.name for leaf in leaves))
    if like is not None:
        if (like.layout.structure, like.layout.shapes) != (structure, shapes):
            raise ValueError("pack: the tree and 'like' differ in structure or shapes")
        layout = like.layout
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return Packed(jax.eval_shape(functools.partial(_join, layout), leaves), layout)
    return Packed(_joined(layout, leaves), layout)


def _join(layout: Layout, leaves: Sequence[Any]) -> list[jax.Array]:
    buffers = []
    for group in layout.groups:
        dtype = jnp.result_type(*(leaves[index] for index in group.leaves))
        pieces = [
            jnp.zeros(size, dtype) if index is None else jnp.ravel(leaves[index]).astype(dtype)
            for index, size in layout.pieces(group)
        ]
        buffers.append(jnp.concatenate(pieces))
    return buffers


_joined = jax.jit(_join, static_argnums=0)


def unpack(packed: Packed) -> Any:
    """The tree that was packed, in the present dtypes of the buffers.

    Inside a loss, `jax.grad(lambda p: loss(unpack(p)))(packed)` is packed: the derivative of cutting a
    buffer into leaves is one concatenation.

    Raises TypeError for what is not packed.
    """
    if not is_packed(packed):
        raise TypeError(f"unpack: expected what pack returns; got {describe(packed)}")
    if any(isinstance(buffer, jax.ShapeDtypeStruct) for buffer in packed.buffers):
        return jax.eval_shape(_cut, packed)
    traced = any(isinstance(buffer, jax.core.Tracer) for buffer in packed.buffers)
    return _cut(packed) if traced else _cut_at_once(packed)


def _cut(packed: Packed) -> Any:
    layout = packed.layout
    leaves: list[Any] = [None] * len(layout.shapes)
    for buffer, group in zip(packed.buffers, layout.groups, strict=True):
        indices, sizes = zip(*layout.pieces(group), strict=True)
        for index, piece in zip(indices, jax.lax.split(buffer, sizes), strict=True):
            if index is not None:
                leaves[index] = piece.reshape(layout.shapes[index])
    return jax.tree.unflatten(layout.structure, leaves)


_cut_at_once = jax.jit(_cut)


def abstract_tree(tree: Any) -> Any:
    """A tree with what every `Packed` in it stands for, as shapes and dtypes."""

    def leaves_of(packed: Packed) -> Any:
        leaves: list[Any] = [None] * len(packed.layout.shapes)
        for buffer, group in zip(packed.buffers, packed.layout.groups, strict=True):
            for index in group.leaves:
                leaves[index] = jax.ShapeDtypeStruct(packed.layout.shapes[index], buffer.dtype)
        return jax.tree.unflatten(packed.layout.structure, leaves)

    return jax.tree.map(lambda x: leaves_of(x) if is_packed(x) else x, tree, is_leaf=is_packed)


def refuse_packed_parts(what: str, tree: Any) -> None:
    """Raises for a tree that holds packed ones: a stage would take their buffers for parameters."""
    if not is_packed(tree) and any(map(is_packed, jax.tree.leaves(tree, is_leaf=is_packed))):
        raise TypeError(
            f"{what}: a part of the parameters is packed; pack the whole tree, and choose parts by path"
        )


def unpack_all(tree: Any) -> Any:
    """A tree with what every `Packed` in it stands for."""
    return jax.tree.map(lambda x: unpack(x) if is_packed(x) else x, tree, is_leaf=is_packed)


def pack_all(tree: Any, structure: Any) -> Any:
    """A state with every tree of arrays in it that has this structure packed."""
    if structure.num_leaves == 0:
        return tree

    def fits(node: Any) -> bool:
        return bool(jax.tree.structure(node) == structure) and all(
            isinstance(getattr(leaf, "dtype", None), np.dtype) for leaf in jax.tree.leaves(node)
        )

    return jax.tree.map(lambda node: pack(node) if fits(node) else node, tree, is_leaf=fits)


def pack_as(like: Any, tree: Any) -> Any:
    """`tree` with what stands in the place of a `Packed` in `like` packed as that is."""
    return jax.tree.map(lambda x, new: pack(new, x) if is_packed(x) else new, like, tree, is_leaf=is_packed)


def runs(flags: Sequence[Hashable], lengths: Sequence[int]) -> list[tuple[Hashable, int]]:
    """Neighbours with equal flags as one, with their whole length."""
    paired = zip(flags, lengths, strict=True)
    merged = [(f, sum(n for _, n in own)) for f, own in itertools.groupby(paired, key=lambda pair: pair[0])]
    return [(flag, length) for flag, length in merged if length]


@functools.lru_cache(maxsize=1024)
def _part_of(layout: Layout, keep: tuple[bool, ...], structure: Any) -> Layout:
    shapes = tuple(itertools.compress(layout.shapes, keep))
    number = dict(zip(itertools.compress(range(len(keep)), keep), itertools.count(), strict=False))
    groups = []
    for group in layout.groups:
        own = [(number[i], n) for i, n in zip(group.leaves, group.blocks, strict=True) if keep[i]]
        if own:
            groups.append(Group(group.name, *map(tuple, zip(*own, strict=True))))
    return Layout(structure, shapes, tuple(groups))


def take(packed: Packed, keep: Sequence[bool], structure: Any) -> Packed:
    """The leaves where `keep`, in the order of `jax.tree.leaves`, is True, under a structure of their own."""
    buffers = []
    for buffer, group in zip(packed.buffers, packed.layout.groups, strict=True):
        if not any(keep[index] for index in group.leaves):
            continue
        pieces = runs([keep[index] for index in group.leaves], group.blocks)
        cut = jax.lax.split(buffer, [blocks * BLOCK for _, blocks in pieces])
        chosen = [part for part, (kept, _) in zip(cut, pieces, strict=True) if kept]
        buffers.append(_concatenated(chosen, buffer))
    return Packed(buffers, _part_of(packed.layout, tuple(keep), structure))


def put_together(layout: Layout, owners: Sequence[Hashable], parts: Mapping[Hashable, Packed]) -> Packed:
    """The inverse of `take`: leaf after leaf from the part that owns it."""
    buffers = []
    for group in layout.groups:
        pieces = runs([owners[index] for index in group.leaves], group.blocks)
        sources = {}
        for owner in dict.fromkeys(owners[index] for index in group.leaves):
            names = [own.name for own in parts[owner].layout.groups]
            buffer = parts[owner].buffers[names.index(group.name)]
            cut = jax.lax.split(buffer, [blocks * BLOCK for other, blocks in pieces if other == owner])
            sources[owner] = (buffer, iter(cut))
        first = next(iter(sources.values()))[0]
        buffers.append(_concatenated([next(sources[owner][1]) for owner, _ in pieces], first))
    return Packed(buffers, layout)


def _concatenated(pieces: Sequence[Any], like: Any) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return jnp.concatenate(pieces) if pieces else like[:0]


def spread(layout: Layout, group: Group, flags: Sequence[bool]) -> jax.Array:
    """For each number of a group's buffer the flag of its leaf."""
    pieces = runs([flags[index] for index in group.leaves], group.blocks)
    ends = np.cumsum([blocks for _, blocks in pieces], dtype=np.int32)
    if len(pieces) > _FEW:
        chosen = jnp.asarray(np.repeat([bool(flag) for flag, _ in pieces], [blocks for _, blocks in pieces]))
    else:
        block = jax.lax.iota(np.int32, group.size // BLOCK)
        chosen = jnp.zeros(block.shape, bool)
        for (flag, blocks), end in zip(pieces, ends, strict=True):
            if flag:
                chosen |= (block >= end - blocks) & (block < end)
    return jnp.broadcast_to(chosen[:, None], (chosen.size, BLOCK)).ravel()


def where(flags: Sequence[bool], chosen: Packed, other: Packed) -> Packed:
    """`chosen` at the leaves whose flag is True, `other` elsewhere."""
    layout = chosen.layout
    pairs = zip(chosen.buffers, other.buffers, layout.groups, strict=True)
    return Packed([jnp.where(spread(layout, group, flags), x, y) for x, y, group in pairs], layout)


def on_trees(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update that is called with packed trees, for one that must see the leaves."""

    def unpacked_update(updates: Packed, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        given = {name: _for_trees(value, updates) for name, value in extra.items()}
        new, new_state = update(unpack(updates), unpack_all(state), unpack_all(params), **given)
        same = jax.tree.map(np.shape, new) == jax.tree.map(np.shape, abstract_tree(updates))
        return pack(new, updates if same else None), pack_all(new_state, updates.layout.structure)

    return unpacked_update


def init_on_trees(init: Callable[..., Any], params: Packed) -> Any:
    """The state of a stage that must see the leaves, for packed parameters."""
    return pack_all(init(unpack(params)), params.layout.structure)


def _for_trees(value: Any, like: Packed) -> Any:
    """An extra argument for a stage that has trees; a function of parameters still gets them packed."""
    if not (callable(value) and jax.tree_util.all_leaves([value])):
        return unpack_all(value)

    @functools.wraps(value)
    def call(*args: Any, **kwargs: Any) -> Any:
        structure = like.layout.structure
        packed = [pack(a, like) if jax.tree.structure(a) == structure else a for a in args]
        return unpack_all(value(*packed, **kwargs))

    return call
