"""Trees in one buffer for each dtype, with a layout of where each leaf lies.

A buffer consists of blocks of `BLOCK` numbers. Every leaf starts a block and pads its last one with zeros.
Leaves with more axes come first, so that matrices are one run of blocks and other leaves another.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, Kind, checked
from gradflow._errors import describe
from gradflow.packed._layout import Layout, _arrange
from gradflow.tree._paths import paths, show
from gradflow.tree._structure import explain_trees


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A tree in one buffer for each dtype of its leaves: a pytree with these buffers as its leaves.

    Made by `pack`. `jax.tree.map` keeps the layout, so gradients, moments and updates of packed parameters
    are packed too.
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


@checked(tree=ARRAYS, like=Kind("a tree that pack returned", is_packed) | None)
def pack(tree: Any, like: Packed | None = None) -> Packed:
    """The leaves of a tree in one buffer for each dtype.

    Trees of equal structure, shapes and dtypes get equal layouts, so packed gradients match packed
    parameters. The buffers are copies. With `jax.ShapeDtypeStruct` leaves the buffers are abstract too.

    Args:
      tree: any tree of numeric arrays; None is not a leaf.
      like: a packed tree of the same structure and shapes, whose layout is used; dtypes may differ.

    Raises TypeError for a leaf that is not a numeric array, ValueError where `tree` and `like` differ.
    """
    if is_packed(tree):
        raise TypeError("pack: argument 'tree' must not be packed already")
    leaves, structure = jax.tree.flatten(tree)
    for path, leaf in zip(paths(tree), leaves, strict=True):
        if not isinstance(getattr(leaf, "dtype", None), np.dtype):
            raise TypeError(f"pack: leaves must be numeric arrays; got {describe(leaf)} at {show(path)}")
    shapes = tuple(tuple(np.shape(leaf)) for leaf in leaves)
    layout = _arrange(structure, shapes, tuple(leaf.dtype.name for leaf in leaves))
    if like is not None:
        if (like.layout.structure, like.layout.shapes) != (structure, shapes):
            raise ValueError(
                f"pack: argument 'like' must have the structure and shapes of 'tree': "
                f"{_difference(tree, abstract_tree(like))}"
            )
        layout = like.layout
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return Packed(jax.eval_shape(functools.partial(_join, layout), leaves), layout)
    return Packed(_joined(layout, leaves), layout)


def _difference(tree: Any, like: Any) -> str:
    """The first path at which two trees have other containers or shapes."""
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(like):
        return explain_trees("tree", tree, "like", like)
    rows = zip(paths(tree), jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    shapes = ((path, np.shape(x), np.shape(y)) for path, x, y in rows)
    path, mine, other = next(row for row in shapes if row[1] != row[2])
    return f"at {show(path)} tree has {mine}, like has {other}"


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
    """The tree that was packed, with the current dtypes of the buffers.

    Axes before the last one, such as the steps of a memory in a state, come before those of each leaf.

    The gradient of `lambda p: loss(unpack(p))` is packed: the derivative of splitting a buffer into leaves
    is one concatenation.

    Raises TypeError for a tree that is not packed.
    """
    if not is_packed(packed):
        raise TypeError(f"unpack: the argument must be a tree that pack returned; got {describe(packed)}")
    if any(isinstance(buffer, jax.ShapeDtypeStruct) for buffer in packed.buffers):
        return jax.eval_shape(_cut, packed)
    traced = any(isinstance(buffer, jax.core.Tracer) for buffer in packed.buffers)
    return _cut(packed) if traced else _cut_at_once(packed)


def _cut(packed: Packed) -> Any:
    layout = packed.layout
    leaves: list[Any] = [None] * len(layout.shapes)
    for buffer, group in zip(packed.buffers, layout.groups, strict=True):
        indices, sizes = zip(*layout.pieces(group), strict=True)
        *before, _ = buffer.shape
        for index, piece in zip(indices, jax.lax.split(buffer, sizes, len(before)), strict=True):
            if index is not None:
                leaves[index] = piece.reshape(*before, *layout.shapes[index])
    return jax.tree.unflatten(layout.structure, leaves)


_cut_at_once = jax.jit(_cut)


def abstract_tree(tree: Any) -> Any:
    """A tree with every `Packed` in it replaced by the shapes and dtypes of its leaves."""

    def leaves_of(packed: Packed) -> Any:
        leaves: list[Any] = [None] * len(packed.layout.shapes)
        for buffer, group in zip(packed.buffers, packed.layout.groups, strict=True):
            for index in group.leaves:
                shape = (*buffer.shape[:-1], *packed.layout.shapes[index])
                leaves[index] = jax.ShapeDtypeStruct(shape, buffer.dtype)
        return jax.tree.unflatten(packed.layout.structure, leaves)

    return jax.tree.map(lambda x: leaves_of(x) if is_packed(x) else x, tree, is_leaf=is_packed)


def check_no_packed_parts(what: str, tree: Any) -> None:
    """Raises TypeError for a tree of which only parts are packed: stages would treat buffers as leaves."""
    if not is_packed(tree) and any(map(is_packed, jax.tree.leaves(tree, is_leaf=is_packed))):
        raise TypeError(
            f"{what}: parameters must be packed as a whole; got a packed part. Pack the whole tree, and "
            "choose parts by path"
        )


def unpack_all(tree: Any) -> Any:
    """A tree with every `Packed` in it unpacked."""
    return jax.tree.map(lambda x: unpack(x) if is_packed(x) else x, tree, is_leaf=is_packed)


def pack_all(tree: Any, structure: Any) -> Any:
    """A state in which every tree of arrays of this structure is packed."""
    if structure.num_leaves == 0:
        return tree

    def fits(node: Any) -> bool:
        return bool(jax.tree.structure(node) == structure) and all(
            isinstance(getattr(leaf, "dtype", None), np.dtype) for leaf in jax.tree.leaves(node)
        )

    return jax.tree.map(lambda node: pack(node) if fits(node) else node, tree, is_leaf=fits)


def pack_as(like: Any, tree: Any) -> Any:
    """`tree`, packed wherever `like` has a `Packed`, with its layout."""
    return jax.tree.map(lambda x, new: pack(new, x) if is_packed(x) else new, like, tree, is_leaf=is_packed)
