"""Checks that trees have equal structures and shapes, with errors that name the first difference."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gradflow._errors import with_article
from gradflow.tree._leaves import path_at
from gradflow.tree._paths import children, is_container, is_none, path_string, show


def match(
    first: Any, *others: Any, shapes: bool = True, broadcast: bool = False
) -> tuple[list[tuple[Any, ...]], Any]:
    """The corresponding leaves of several trees, None included, and the treedef of the first.

    Raises ValueError naming the first path at which the trees, or their leaves' shapes, differ; with
    `broadcast` at which shapes do not broadcast.
    """
    treedef: Any
    leaves, treedef = jax.tree.flatten(first, is_leaf=is_none)
    columns = [leaves]
    for number, other in enumerate(others, 2):
        column, other_def = jax.tree.flatten(other, is_leaf=is_none)
        if other_def != treedef:
            raise ValueError(_difference(first, other, number))
        columns.append(column)
    rows = list(zip(*columns, strict=True))
    if shapes:
        for i, row in enumerate(rows):
            sizes = [np.shape(x) for x in row if x is not None]
            if all(size == sizes[0] for size in sizes) or (broadcast and _broadcasts(sizes)):
                continue
            where = show(path_at(first, i))
            one, other = _unlike(sizes, broadcast)
            expected = "shapes that broadcast" if broadcast else "equal shapes"
            raise ValueError(f"tree: the leaves at {where} must have {expected}; got {one} and {other}")
    return rows, treedef


def _broadcasts(sizes: Sequence[tuple[int, ...]]) -> bool:
    try:
        np.broadcast_shapes(*sizes)
    except ValueError:
        return False
    return True


def _unlike(sizes: Sequence[tuple[int, ...]], broadcast: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first two sizes that differ, or that do not broadcast."""
    pairs = itertools.combinations(sizes, 2)
    return next(pair for pair in pairs if not (_broadcasts(pair) if broadcast else pair[0] == pair[1]))


def up_to(treedef: Any, tree: Any, name: str) -> list[Any]:
    """The parts of `tree` at the leaves of `treedef`; ValueError naming the first path that does not fit."""
    try:
        return list(treedef.flatten_up_to(tree))
    except ValueError:
        expected = treedef.unflatten([0] * treedef.num_leaves)
        found = _first_difference(expected, tree, (), up_to_leaves=True)
    path, wanted, got = found or ((), str(treedef), str(jax.tree.structure(tree)))
    raise ValueError(
        f"tree.map_params: argument '{name}' must have {wanted} at {show(path_string(path))}; got {got}"
    )


def _located(a: Any, b: Any) -> tuple[str, str, str]:
    """The first path at which two structures differ, and what each tree has there."""
    found = _first_difference(a, b, ())
    path, mine, theirs = found or ((), str(jax.tree.structure(a)), str(jax.tree.structure(b)))
    return show(path_string(path)), mine, theirs


def explain_trees(name: str, tree: Any, other_name: str, other: Any) -> str:
    """The first difference between two trees that should have one structure, as text."""
    where, mine, theirs = _located(tree, other)
    return f"at {where} {name} has {mine}, {other_name} has {theirs}"


def _difference(a: Any, b: Any, number: int) -> str:
    where, expected, got = _located(a, b)
    which = "the second tree" if number == 2 else f"tree number {number}"
    return f"tree: trees must have one structure; at {where} the first tree has {expected}, {which} has {got}"


def _first_difference(
    a: Any, b: Any, path: tuple[Any, ...], up_to_leaves: bool = False
) -> tuple[tuple[Any, ...], str, str] | None:
    """(path, expected, got); with `up_to_leaves` a leaf of `a` stands for any subtree of `b`."""
    if not is_container(a) and not is_container(b) and not up_to_leaves:
        return None
    if up_to_leaves and not is_container(a) and (a is not None or b is None):
        return None
    if type(a) is not type(b) or not (is_container(a) and is_container(b)):
        return path, _name(a), _name(b)
    (below_a, def_a), (below_b, def_b) = children(a), children(b)
    keys_a = {path_string((key,)): key for key, _ in below_a}
    keys_b = {path_string((key,)): key for key, _ in below_b}
    for text, key in keys_a.items():
        if text not in keys_b:
            return (*path, key), f"{_name(dict(below_a)[key])}", "nothing there"
    for text, key in keys_b.items():
        if text not in keys_a:
            return (*path, key), "nothing there", f"{_name(dict(below_b)[key])}"
    if def_a != def_b:
        return path, f"{_name(a)} {def_a}", f"{_name(b)} {def_b}"
    for (key, child_a), (_, child_b) in zip(below_a, below_b, strict=True):
        found = _first_difference(child_a, child_b, (*path, key), up_to_leaves)
        if found:
            return found
    return None


def _name(node: Any) -> str:
    if node is None:
        return "None"
    if not is_container(node):
        return "a leaf"
    return with_article(type(node).__name__)
