"""Which leaves: masks and labels, given as trees or as functions of the parameters."""

from collections.abc import Callable, Collection, Hashable
from typing import Any

import jax
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._errors import describe
from gradflow._selection._absent import MaskedNode, is_absent
from gradflow._selection._selectors import paths
from gradflow._types import MaskOrFn
from gradflow.packed._pack import abstract_tree
from gradflow.tree._paths import is_none, path_string


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


def _segments(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(path_string((key,)) for key in path)
