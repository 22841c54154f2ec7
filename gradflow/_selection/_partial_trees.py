"""Trees in which some leaves are left out."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._types import MaskedNode, is_absent
from gradflow.packed._pack import Packed, abstract_tree, is_packed
from gradflow.packed._subsets import merge_subsets, subset, where
from gradflow.tree._paths import is_none


def keep_where(mask: Any, tree: Any) -> Any:
    """`tree` with None (zeros if it is packed) at every leaf where the resolved `mask` is not True."""
    if is_packed(tree):
        return where(leaf_flags(mask, tree), tree, jax.tree.map(jnp.zeros_like, tree))
    return jax.tree.map(lambda k, x: x if k else None, mask, tree, is_leaf=is_none)


def fill_none(tree: Any, other: Any) -> Any:
    """`tree` with the leaves of `other` where it has None."""
    return jax.tree.map(lambda x, y: y if x is None else x, tree, other, is_leaf=is_none)


def change_where(mask: Any, change: Callable[[Any], Any], tree: Any, elsewhere: Any) -> Any:
    """`change(tree)` at every leaf where the resolved `mask` is True, and `elsewhere` at the others."""
    if is_packed(tree):
        return where(leaf_flags(mask, tree), change(tree), elsewhere)
    return fill_none(change(keep_where(mask, tree)), elsewhere)


def mask_out(keep: Any, tree: Any) -> Any:
    """`tree` with a `MaskedNode` at each leaf where the resolved mask `keep` is False."""
    if is_packed(tree):
        rest = mask_out(keep, abstract_tree(tree))
        return subset(tree, [flag is not False for flag in leaf_flags(keep, tree)], jax.tree.structure(rest))
    return jax.tree.map(lambda k, x: MaskedNode() if k is False else x, keep, tree, is_leaf=is_none)


def merge(owners: Any, parts: Mapping[Hashable, Any], like: Any) -> Any:
    """The inverse of `mask_out`: takes each leaf from the part that owns it; absent owners are kept."""
    if is_packed(like):
        return merge_subsets(like.layout, leaf_flags(owners, like), parts)
    order = list(parts)
    return jax.tree.map(
        lambda owner, *of_each: owner if is_absent(owner) else of_each[order.index(owner)],
        owners, *parts.values(), is_leaf=is_absent,
    )  # fmt: skip


def leaf_flags(flag_tree: Any, packed: Packed) -> list[Any]:
    """The mask or label of each leaf of a packed tree, in order."""
    leaves = jax.tree.leaves(abstract_tree(packed), is_leaf=is_absent)
    flags = jax.tree.leaves(flag_tree, is_leaf=is_absent)
    return [flag for flag, leaf in zip(flags, leaves, strict=True) if not is_absent(leaf)]


def zero_elsewhere(mask: Any, tree: Any) -> Any:
    """`tree` with zeros at every leaf where the resolved `mask` is False."""
    return jax.tree.map(lambda k, x: jnp.zeros_like(x) if k is False else x, mask, tree)
