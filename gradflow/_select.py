"""Which leaves: masks, given as trees of booleans or as functions of the parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._errors import describe
from gradflow._frames import stage_name
from gradflow.tree._paths import is_none, path_string

MaskOrFn = Any | Callable[[Any], Any]


class MaskedNode(NamedTuple):
    """Stands in the place of a leaf that is left out; holds nothing."""


def is_mask_function(mask: MaskOrFn) -> bool:
    """Whether `mask` is to be called on the parameters.

    A callable that is a pytree, such as a module whose leaves are booleans, is a mask, not a function.
    """
    return callable(mask) and jax.tree_util.all_leaves([mask])


def resolve_mask(mask: MaskOrFn, params: Any) -> Any:
    """`mask` as a tree of the structure of `params`, with a bool at every leaf.

    A function is called on the parameters. A tree may be a prefix: a bool stands for all that is below
    it. Only paths count, so a list matches a tuple. It may speak of leaves that are None or left out by
    another mask: if it does not, these have None.

    Raises TypeError for leaves that are no booleans, ValueError naming the first leaf of the
    parameters that the mask leaves out, or of the mask that no parameter answers to.
    """
    chosen = mask(params) if is_mask_function(mask) else mask
    wanted: dict[tuple[str, ...], bool] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(chosen, is_leaf=is_none)[0]:
        if leaf is None:
            continue
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(
                f"{stage_name()}: a mask's leaves must be True or False; at '{path_string(path)}' it "
                f"has {describe(leaf)}"
            )
        wanted[_segments(path)] = bool(leaf)
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
                f"{stage_name()}: the mask says nothing of the parameter at '{path_string(path)}'"
            )
        used.add(prefix)
        answers.append(wanted[prefix])
    for path in wanted:
        # A bare True or False is for whatever there is, be it nothing.
        if path and path not in used and not any(_segments(p)[: len(path)] == path for p, _ in flat):
            raise ValueError(
                f"{stage_name()}: the mask has a leaf at '{'/'.join(path)}', where there is no parameter"
            )
    return jax.tree.unflatten(structure, answers)


def keep_where(mask: Any, tree: Any) -> Any:
    """`tree` with None in the place of every leaf where the resolved `mask` is not True."""
    return jax.tree.map(lambda k, x: x if k else None, mask, tree, is_leaf=is_none)


def fill_in(tree: Any, other: Any) -> Any:
    """`tree` with the leaves of `other` where it has None."""
    return jax.tree.map(lambda x, y: y if x is None else x, tree, other, is_leaf=is_none)


def hide(keep: Any, tree: Any) -> Any:
    """`tree` with a `MaskedNode` in the place of each leaf where the resolved mask `keep` is False."""
    return jax.tree.map(lambda k, x: MaskedNode() if k is False else x, keep, tree, is_leaf=is_none)


def is_absent(x: Any) -> bool:
    """Whether a node of a tree stands in the place of a leaf that is not there."""
    return x is None or isinstance(x, MaskedNode)


def _segments(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(path_string((key,)) for key in path)
