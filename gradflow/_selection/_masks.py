"""Which leaves: masks and labels, given as trees or as functions of the parameters."""

import functools
from collections.abc import Callable, Collection, Hashable
from typing import Any

import jax
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._checked import is_flag
from gradflow._errors import describe
from gradflow._selection._parameters import named_leaves
from gradflow._selection._selectors import paths
from gradflow._selection._stacks import per_leaf
from gradflow._types import MaskedNode, MaskOrFn, is_absent
from gradflow.packed._pack import abstract_tree
from gradflow.tree._map_params import has_placeholder
from gradflow.tree._paths import longest_prefix, show


def is_mask_function(mask: MaskOrFn) -> bool:
    """Whether `mask` is a function of the parameters.

    A callable pytree, such as a module whose leaves are booleans, is a mask and not a function.
    """
    return callable(mask) and jax.tree_util.all_leaves([mask])


def check_mask(owner: str, name: str, mask: MaskOrFn) -> None:
    """Raises TypeError for patterns in a list or a dict, when the transformation is built."""
    if mask is None or isinstance(mask, str | bool) or is_mask_function(mask):
        return
    patterns = [leaf for leaf in jax.tree.leaves(mask) if isinstance(leaf, str)]
    if patterns:
        raise TypeError(
            f"{owner}: argument '{name}' must be a tree of booleans, a function of the parameters, a "
            f"selector or one pattern; got {describe(patterns[0])} in {describe(mask)}. "
            f"For patterns pass gradflow.paths({', '.join(map(repr, patterns))})."
        )


def resolve_mask(mask: MaskOrFn, params: Any) -> Any:
    """`mask` as a tree of the structure of `params`, with a bool at every leaf.

    A function, such as a selector, is called on the parameters. A tree may be a prefix: a bool applies to
    everything below it. Only paths count, so a list matches a tuple. Leaves that are None, or left out by
    another mask, need no bool; without one the result has None.

    Raises TypeError for leaves that are not booleans. Raises ValueError naming the first parameter without a
    bool, or the first bool without a parameter.
    """
    return per_leaf(functools.partial(_resolve_mask, mask), params)


def _resolve_mask(mask: MaskOrFn, params: Any) -> Any:
    if isinstance(mask, str):
        mask = paths(mask)

    def check(path: str, leaf: Any) -> None:
        if not isinstance(leaf, bool):
            got = f"{describe(leaf)} at {show(path)}"
            raise TypeError(
                f"{stage_name()}: leaves of a mask must be True or False; got {got}"
                + (f". For patterns pass gradflow.paths({leaf!r}, ...)." if isinstance(leaf, str) else "")
            )

    params = abstract_tree(params)
    return _resolve("mask", mask(params) if is_mask_function(mask) else mask, params, check)


def choose_by_shape(what: str, function: Callable[[Any], Any], updates: Any) -> Any:
    """What a mask or labels, if a function, gives for the shapes and paths of the updates.

    It is for a call without parameters. Raises ValueError for a function that reads the parameters' values.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), abstract_tree(updates))
    try:
        return function(shapes)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{stage_name()}: this stage needs the parameters, since its {what} cannot be found from the "
            f"shapes and paths of the updates, nor in the state; call update(updates, state, params). "
            f"The function raised: {error}"
        ) from error


def resolve_labels(labels: Any, known: Collection[Hashable], params: Any) -> Any:
    """`labels` as a tree of the structure of `params`, with a label at every leaf.

    `labels` is a tree, possibly a prefix as in `resolve_mask`, or a function of the parameters. Raises
    ValueError for a label that is not `known`, and for a parameter or a label without the other.
    """
    return per_leaf(functools.partial(_resolve_labels, labels, known), params)


def _resolve_labels(labels: Any, known: Collection[Hashable], params: Any) -> Any:

    def check(path: str, leaf: Any) -> None:
        if not isinstance(leaf, Hashable) or leaf not in known:
            raise ValueError(
                f"{stage_name()}: labels must be one of {', '.join(map(repr, known))}; got "
                f"{describe(leaf)} at {show(path)}"
            )

    params = abstract_tree(params)
    is_function = callable(labels) and jax.tree_util.all_leaves([labels])
    return _resolve("tree of labels", labels(params) if is_function else labels, params, check)


def _resolve(what: str, chosen: Any, params: Any, check: Callable[[str, Any], None]) -> Any:
    """`params` with each leaf replaced by the checked leaf of `chosen` at its longest prefix."""
    # Boxes, such as those of flax, are not part of a path: masks and parameters may be boxed differently.
    wanted: dict[tuple[str, ...], Any] = {}
    by_keys: dict[tuple[str, ...], Any] = {}  # keeps "net/~/linear" of haiku and "net/linear" apart
    ambiguous: set[tuple[str, ...]] = set()
    for path, leaf, keys in named_leaves(chosen)[0]:
        if not is_absent(leaf):
            leaf = bool(leaf) if what == "mask" and is_flag(leaf) else _concrete_bool(leaf)
            check("/".join(path), leaf)
            if wanted.get(path, leaf) != leaf:
                ambiguous.add(path)
            wanted[path] = by_keys[keys] = leaf
    flat, structure = named_leaves(params)
    used: set[tuple[str, ...]] = set()
    resolved: list[Any] = []
    for path, leaf, keys in flat:
        prefix = longest_prefix(path, wanted)
        if isinstance(leaf, MaskedNode) or (leaf is None and prefix is None):
            resolved.append(leaf)
            continue
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: the {what} must cover every parameter; got none at '{'/'.join(path)}'"
            )
        used.add(prefix)
        own = longest_prefix(keys, by_keys) if prefix in ambiguous else None
        resolved.append(wanted[prefix] if own is None else by_keys[own])
    # A placeholder stands for all parameters, and is their part for every mask and label.
    for path in wanted if not has_placeholder(params) else ():
        # A mask that is a single leaf matches any tree, even an empty one.
        if path and path not in used and not any(p.path[: len(path)] == path for p in flat):
            raise ValueError(
                f"{stage_name()}: the {what} must match the parameters; got a leaf at '{'/'.join(path)}', "
                "where there is no parameter"
            )
    return jax.tree.unflatten(structure, resolved)


def _concrete_bool(leaf: Any) -> Any:
    """A concrete zero-dimensional boolean of NumPy or JAX as a bool; other leaves unchanged."""
    is_array = isinstance(leaf, np.ndarray | np.generic | jax.Array)
    if is_array and not isinstance(leaf, jax.core.Tracer) and leaf.shape == () and leaf.dtype == bool:
        return bool(leaf)
    return leaf
