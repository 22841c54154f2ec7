"""Trees in one buffer for each dtype, and the layout that says where each leaf lies.

A buffer is cut into blocks of `BLOCK` numbers. Every leaf begins a block, what is left of its last one is
zero, and leaves of more axes come first, so that "matrices" and "the rest" are one run of blocks each.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow.packed._layout import Layout, _arrange


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


def check_no_packed_parts(what: str, tree: Any) -> None:
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
