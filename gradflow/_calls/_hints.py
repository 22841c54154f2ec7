"""What probably went wrong when a call does not fit, in a sentence at the end of an error message."""

from typing import Any

import jax
import numpy as np

from gradflow.packed._pack import is_packed

_ORDER = "The order is update(updates, state, params)"


def swapped_arguments(updates: Any, state: Any, params: Any) -> str:
    """For updates that do not fit the parameters: were arguments of update swapped?"""
    if _is_result(updates):
        return " These look like what update returned, a pair (updates, state): take the first of it."
    if _alike(state, params) or _looks_like_state(updates):
        return f" {_ORDER}; a state stands in the place of the updates."
    if _alike(state, updates) or _looks_like_state(params):
        return f" {_ORDER}; a state stands in the place of the params."
    return ""


def unlike_trees(what: str, tree: Any, other_what: str, other: Any) -> str:
    """For two trees of one call with different structures."""
    if other_what == "state":
        return " The state was made for other parameters: a changed model needs tx.init(params) anew."
    if (what, other_what) == ("updates", "params"):
        if is_packed(tree) != is_packed(other):
            return (
                " Packed parameters have packed gradients: differentiate "
                "lambda p: loss(gradflow.packed.unpack(p)), or pack the gradients."
            )
        return " Gradients have the tree of the parameters that were differentiated; pass those."
    return ""


def unlike_shapes(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    """For two leaves of one path with different shapes."""
    if len(shape) == len(other) + 1 and shape[1:] == other and shape[0] > 1:
        return f" Gradients of {shape[0]} examples or devices are averaged before update."
    return ""


def wrong_leaf(leaf: Any) -> str:
    """For a leaf that is no floating-point array."""
    if callable(leaf):
        return " A module's functions are no parameters: pass its arrays, None in the place of the rest."
    return " masked(tx, gradflow.dtype(jax.numpy.inexact)) leaves others out."


def wrong_state(state: Any) -> str:
    """For a state that is not the called stage's own."""
    if _is_result(state):
        return " This looks like what update returned, a pair (updates, state): take the second of it."
    if type(state).__module__.split(".")[0] == "optax" or _has_optax(state):
        return " This state is Optax's: gradflow.interop.from_optax_state(tx, state, params) takes it over."
    if state is None:
        return " A state begins as tx.init(params)."
    return f" {_ORDER}, and a state belongs to the transformation whose init made it."


def _has_optax(state: Any) -> bool:
    return isinstance(state, tuple) and any(type(part).__module__.split(".")[0] == "optax" for part in state)


def _looks_like_state(tree: Any) -> bool:
    """Whether a tree is a named tuple called a state, or a tuple of such."""
    parts = tree if type(tree) is tuple else (tree,)
    return any(isinstance(part, tuple) and type(part).__name__.endswith("State") for part in parts)


def _is_result(value: Any) -> bool:
    """Whether a value is a pair of updates and a state."""
    return (
        type(value) is tuple
        and len(value) == 2
        and not _looks_like_state((value[0],))
        and not isinstance(value[0], jax.Array | np.ndarray)
        and (_looks_like_state(value[1]) or _looks_like_state((value[1],)))
        and type(value[0]) is not tuple
    )


def _alike(tree: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(tree)
    return structure.num_leaves > 0 and structure == jax.tree.structure(other)
