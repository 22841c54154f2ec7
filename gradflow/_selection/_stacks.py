"""Leaves of one kind as one leaf: what a choice by path says of the leaves of each stack."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from gradflow._calls._context import context, stage_name
from gradflow._errors import describe
from gradflow._types import is_absent
from gradflow.tree._paths import path_string, show


class Stacks:
    """Which leaves of a tree are stacked: a stack is in the place of its first leaf, the others are absent.

    - `members`: the places of the leaves of each stack, by the place of the first.
    - `differing`: what a choice says of each leaf, where it is not the same for the leaves of a stack.
    """

    def __init__(self, members: Mapping[int, tuple[int, ...]]) -> None:
        self.members = members
        self.differing: dict[int, Hashable] = {}

    def agreed(self, choose: Callable[[Any], Any], stacked: Any) -> Any:
        """What `choose` says of the leaves of each stack, for a function of trees of leaves.

        Raises ValueError that names two leaves of one stack of which it does not say the same, and for a
        function that reads values.
        """
        stacks: list[Any]
        structure: Any
        stacks, structure = jax.tree.flatten(stacked, is_leaf=is_absent)
        leaves = list(stacks)
        present = {first: own for first, own in self.members.items() if not is_absent(stacks[first])}
        for first, own in present.items():
            for place in own:
                leaves[place] = jax.ShapeDtypeStruct(stacks[first].shape[1:], stacks[first].dtype)
        tree = structure.unflatten(leaves)
        try:
            with stacking(None):
                chosen = structure.flatten_up_to(choose(tree))
        except (AttributeError, TypeError) as error:
            if str(error).startswith(stage_name()):
                raise  # the choice itself is wrong
            raise ValueError(
                f"{stage_name()}: inside stacked, masks and labels must follow from the paths and shapes of "
                f"leaves; got a function that raised: {str(error).splitlines()[0]}"
            ) from error
        for first, own in present.items():
            for place in own:
                if chosen[place] != chosen[first]:
                    self.differing = {place: chosen[place] for own in present.values() for place in own}
                    raise ValueError(_difference(chosen, first, place, tree))
        results = [chosen[place] if place in present else leaf for place, leaf in enumerate(stacks)]
        return structure.unflatten(results)


def _difference(chosen: list[Any], first: int, place: int, tree: Any) -> str:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_absent)
    said = [f"{describe(chosen[i])} at {show(path_string(flat[i][0]))}" for i in (first, place)]
    return (
        f"{stage_name()}: masks, labels and matrices must be the same for all leaves of a stack; got "
        + " and ".join(said)
    )


@contextmanager
def stacking(stacks: Stacks | None) -> Iterator[None]:
    """The trees that stages get in this block are stacked so."""
    before, context.stacks = context.stacks, stacks
    try:
        yield
    finally:
        context.stacks = before


def per_leaf(choose: Callable[[Any], Any], params: Any) -> Any:
    """`choose(params)`; inside `stacked`, for each stack what `choose` says of its leaves."""
    stacks: Stacks | None = context.stacks
    return choose(params) if stacks is None else stacks.agreed(choose, params)
