"""Applies a transformation to some leaves only."""

import functools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from gradflow import tree
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._selection._inner_arguments import part_arguments
from gradflow._selection._masks import check_mask, choose_by_shape, is_mask_function, resolve_mask
from gradflow._selection._partial_trees import mask_out, merge
from gradflow._types import MaskedNode, MaskOrFn, OptState, Pair, Params, Updates, is_absent
from gradflow.packed._pack import abstract_tree, is_packed


class MaskedState(NamedTuple):
    """The state of the inner transformation, with a `MaskedNode` for every masked leaf."""

    inner_state: OptState


@transformation(packable=True)
def masked(
    inner: GradientTransformation,
    mask: MaskOrFn,
    *,
    mask_compatible_extra_args: bool = False,
    elsewhere: str = "pass",
) -> Pair:
    """Applies `inner` to the leaves where `mask` is True. The others have no state, and may be integers.

    Args:
      inner: any transformation; it is called on a tree without the other leaves.
      mask: tree of booleans or a prefix of one, or a function from the parameters to one. Without parameters,
        `update` reads the choice from the state, or else calls the function on the updates' shapes.
      mask_compatible_extra_args: also masks extra arguments that have the structure of the updates.
      elsewhere: "pass" returns the other updates unchanged, so it does not freeze parameters; "zero" does.

    Inside, `grad` is masked too, and `value_fn`, `obj_fn` and `grad_fn` are functions of the chosen leaves
    with the others as they are. So a line search sees the loss along its own part.

    Raises ValueError for a mask that does not fit, and in `update` without parameters if the mask is a
    function that reads their values and its choice is not in the state.

    >>> import gradflow as gf
    >>> print(gf.masked(gf.add_decayed_weights(0.1), ~gf.paths("**/bias")))
    masked(add_decayed_weights(weight_decay=0.1), ~paths('**/bias'))
    """
    inner = as_transformation(inner, "masked", "argument 'inner'")
    check_mask("masked", "mask", mask)
    if elsewhere not in ("pass", "zero"):
        raise ValueError(f"masked: argument 'elsewhere' must be 'pass' or 'zero'; got {describe(elsewhere)}")

    def init(params: Params) -> OptState:
        return MaskedState(inner.init(mask_out(resolve_mask(mask, params), params)))

    def update(
        updates: Updates, state: MaskedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MaskedState]:
        if params is not None or not is_mask_function(mask):
            keep = resolve_mask(mask, updates if params is None else params)
        else:
            keep = _mask_in(state.inner_state, updates)
            if keep is None:
                keep = choose_by_shape("mask", functools.partial(resolve_mask, mask), updates)
        extra = part_arguments(extra, keep, params)
        if mask_compatible_extra_args:
            structure: Any = jax.tree.structure(updates)
            extra = {
                name: mask_out(keep, value) if jax.tree.structure(value) == structure else value
                for name, value in extra.items()
            }
        visible = mask_out(keep, updates)
        new, inner_state = inner.update(
            visible, state.inner_state, None if params is None else mask_out(keep, params), **extra
        )
        return _merge_updates(keep, new, updates, elsewhere), MaskedState(inner_state)

    return init, update


def _merge_updates(keep: Any, new: Updates, old: Updates, elsewhere: str) -> Updates:
    """The inner updates where `keep` is not False; elsewhere the old ones or zeros."""

    if is_packed(old):
        out = jax.tree.map(lambda k: k if is_absent(k) else not k, keep, is_leaf=is_absent)
        rest = mask_out(out, old)
        return merge(keep, {True: new, False: rest if elsewhere == "pass" else tree.zeros_like(rest)}, old)

    def choose(k: bool | None, u: Any, g: Any) -> Any:
        if k is not False:
            return u
        # The gradient of an integer, float0, is zero by its type.
        unchanged = elsewhere == "pass" or g is None or g.dtype == jax.dtypes.float0
        return g if unchanged else tree.zeros_like(g)

    return jax.tree.map(choose, keep, new, old, is_leaf=lambda x: x is None)


def _mask_in(state: OptState, updates: Updates) -> Any:
    """The choice of a mask, read from the parts of a state that have the structure of the updates.

    None if it cannot be read.
    """
    updates = abstract_tree(updates)
    chosen = _chosen_in(abstract_tree(state), updates)
    structure: Any = jax.tree.structure(updates, is_leaf=is_absent)
    return None if chosen is None else structure.unflatten(chosen)


def labels_in(states: Mapping[Hashable, MaskedState], updates: Updates) -> Any:
    """The label of each leaf, read from the states of all labels; one of them may hold no such part.

    None if they cannot be read.
    """
    leaves: list[Any]
    structure: Any
    updates = abstract_tree(updates)
    leaves, structure = jax.tree.flatten(updates, is_leaf=is_absent)
    chosen = {label: _chosen_in(abstract_tree(state.inner_state), updates) for label, state in states.items()}
    unread = [label for label, own in chosen.items() if own is None]
    if len(unread) > 1:
        return None
    labels: list[Any] = []
    for index, leaf in enumerate(leaves):
        owners = [label for label, own in chosen.items() if own is not None and own[index]] or unread
        if len(owners) != 1 and not is_absent(leaf):
            return None
        labels.append(owners[0] if len(owners) == 1 else leaf)
    return structure.unflatten(labels)


def _chosen_in(state: OptState, updates: Updates) -> tuple[bool, ...] | None:
    """For each leaf of the updates whether a state holds an entry for it; None if that cannot be read."""
    flat, _ = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_absent)
    found: set[tuple[bool, ...]] = set()
    nodes = list(_subtrees(state))
    # A tree of one array matches any number of the state, and nested masks match each other.
    if flat and flat[0][0] and not any(isinstance(node, MaskedState) for node in nodes):
        for node in nodes:
            here, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_absent)
            if [path for path, _ in here] == [path for path, _ in flat] and all(
                is_absent(x) or is_absent(g) or x.shape == g.shape
                for (_, x), (_, g) in zip(here, flat, strict=True)
            ):
                found.add(tuple(not isinstance(x, MaskedNode) for _, x in here))
    return found.pop() if len(found) == 1 else None


def _subtrees(node: Any) -> Iterator[Any]:
    yield node
    for child in jax.tree.leaves(node, is_leaf=lambda x: x is not node):
        if child is not node:
            yield from _subtrees(child)
