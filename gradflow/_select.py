"""Which leaves: masks and labels, given as trees or as functions of the parameters."""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow._frames import stage_name
from gradflow._packed import Packed, abstract_tree, is_packed, put_together, take, where
from gradflow._selectors import MaskedNode as MaskedNode
from gradflow._selectors import is_absent as is_absent
from gradflow._selectors import paths as paths
from gradflow.tree._paths import is_none, path_string

MaskOrFn = Any | Callable[[Any], Any]


def is_mask_function(mask: MaskOrFn) -> bool:
    """Whether `mask` is to be called on the parameters.

    A callable that is a pytree, such as a module whose leaves are booleans, is a mask, not a function.
    """
    return callable(mask) and jax.tree_util.all_leaves([mask])


def resolve_mask(mask: MaskOrFn, params: Any) -> Any:
    """`mask` as a tree of the structure of `params`, with a bool at every leaf.

    A function, such as a selector, is called on the parameters. A tree may be a prefix: a bool stands for
    all that is below it. Only paths count, so a list matches a tuple. It may speak of leaves that are None
    or left out by another mask: if it does not, these have None.

    Raises TypeError for leaves that are no booleans, ValueError naming the first leaf of the
    parameters that the mask leaves out, or of the mask that no parameter answers to.
    """
    if isinstance(mask, str):
        mask = paths(mask)

    def check(path: str, leaf: Any) -> None:
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(
                f"{stage_name()}: a mask's leaves must be True or False; at '{path}' it has {describe(leaf)}"
            )

    params = abstract_tree(params)
    return _resolve("mask", mask(params) if is_mask_function(mask) else mask, params, check)


def resolve_labels(labels: Any, known: Collection[Hashable], params: Any) -> Any:
    """`labels`, a tree or a function of the parameters, as a tree of the structure of `params`.

    A tree may be a prefix, as in `resolve_mask`. Raises ValueError for a label that is not `known` and for
    parameters and labels that do not fit.
    """

    def check(path: str, leaf: Any) -> None:
        if leaf not in known:
            raise ValueError(
                f"{stage_name()}: the label {leaf!r} at '{path}' names no transformation; "
                f"there are {', '.join(map(repr, known))}"
            )

    params = abstract_tree(params)
    is_function = callable(labels) and jax.tree_util.all_leaves([labels])
    return _resolve("tree of labels", labels(params) if is_function else labels, params, check)


def _resolve(what: str, chosen: Any, params: Any, check: Callable[[str, Any], None]) -> Any:
    """The leaves of `chosen`, each checked, at those of `params` that they stand for."""
    wanted: dict[tuple[str, ...], Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(chosen, is_leaf=is_none)[0]:
        if leaf is None:
            continue
        check(path_string(path), leaf)
        wanted[_segments(path)] = bool(leaf) if isinstance(leaf, np.bool_) else leaf
    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_absent)
    used: set[tuple[str, ...]] = set()
    answers: list[Any] = []
    for path, leaf in flat:
        segments = _segments(path)
        prefix = next((segments[:n] for n in range(len(segments), -1, -1) if segments[:n] in wanted), None)
        if isinstance(leaf, MaskedNode) or (leaf is None and prefix is None):
            answers.append(leaf)
            continue
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: the {what} says nothing of the parameter at '{path_string(path)}'"
            )
        used.add(prefix)
        answers.append(wanted[prefix])
    for path in wanted:
        # A bare leaf is for whatever there is, be it nothing.
        if path and path not in used and not any(_segments(p)[: len(path)] == path for p, _ in flat):
            raise ValueError(
                f"{stage_name()}: the {what} has a leaf at '{'/'.join(path)}', where there is no parameter"
            )
    return jax.tree.unflatten(structure, answers)


def keep_where(mask: Any, tree: Any) -> Any:
    """`tree` with None, or zeros if it is packed, at every leaf where the resolved `mask` is not True."""
    if is_packed(tree):
        return where(flags(mask, tree), tree, jax.tree.map(jnp.zeros_like, tree))
    return jax.tree.map(lambda k, x: x if k else None, mask, tree, is_leaf=is_none)


def fill_in(tree: Any, other: Any) -> Any:
    """`tree` with the leaves of `other` where it has None."""
    return jax.tree.map(lambda x, y: y if x is None else x, tree, other, is_leaf=is_none)


def change_where(mask: Any, change: Callable[[Any], Any], tree: Any, elsewhere: Any) -> Any:
    """`change(tree)` at every leaf where the resolved `mask` is True, and `elsewhere` at the others."""
    if is_packed(tree):
        return where(flags(mask, tree), change(tree), elsewhere)
    return fill_in(change(keep_where(mask, tree)), elsewhere)


def hide(keep: Any, tree: Any) -> Any:
    """`tree` with a `MaskedNode` in the place of each leaf where the resolved mask `keep` is False."""
    if is_packed(tree):
        rest = hide(keep, abstract_tree(tree))
        return take(tree, [flag is not False for flag in flags(keep, tree)], jax.tree.structure(rest))
    return jax.tree.map(lambda k, x: MaskedNode() if k is False else x, keep, tree, is_leaf=is_none)


def reveal(owners: Any, parts: Mapping[Hashable, Any], like: Any) -> Any:
    """The inverse of `hide`: at each leaf that of the part that owns it; absent owners stay as they are."""
    if is_packed(like):
        return put_together(like.layout, flags(owners, like), parts)
    order = list(parts)
    return jax.tree.map(
        lambda owner, *of_each: owner if is_absent(owner) else of_each[order.index(owner)],
        owners, *parts.values(), is_leaf=is_absent,
    )  # fmt: skip


def flags(answers: Any, packed: Packed) -> list[Any]:
    """What a tree of masks or labels says of each leaf of a packed tree."""
    leaves = jax.tree.leaves(abstract_tree(packed), is_leaf=is_absent)
    said = jax.tree.leaves(answers, is_leaf=is_absent)
    return [answer for answer, leaf in zip(said, leaves, strict=True) if not is_absent(leaf)]


def _segments(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(path_string((key,)) for key in path)
