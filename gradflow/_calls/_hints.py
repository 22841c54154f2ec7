"""Hints at the end of error messages: the most likely mistake in a call."""

from typing import Any

import jax
import numpy as np

from gradflow.packed._pack import is_packed

_ORDER = "The order is update(updates, state, params)"
_RESULT = " This looks like the pair (updates, state) that update returns: pass"

CONVERT = " gradflow.convert_state(old_tx, new_tx, params, state) goes between plain and coded states."

_VALUE_AND_GRAD = " This looks like the pair (value, gradient) of jax.value_and_grad: pass its second item."


def swapped_arguments(updates: Any, state: Any, params: Any) -> str:
    """The hint for updates that do not match the parameters: swapped arguments, if they look swapped."""
    if _is_result(updates) or _is_value_and_grad(updates):
        return result_as_updates(updates)
    if _alike(state, params) or _looks_like_state(updates):
        return f" {_ORDER}; the argument 'updates' looks like a state."
    if _alike(state, updates) or _looks_like_state(params):
        return f" {_ORDER}; the argument 'params' looks like a state."
    return ""


def result_as_updates(updates: Any) -> str:
    """The hint for updates that are the whole result of another call, or no text."""
    if _is_result(updates):
        return f"{_RESULT} its first item."
    if _is_value_and_grad(updates):
        return _VALUE_AND_GRAD
    return ""


def unlike_trees(what: str, tree: Any, other_what: str, other: Any) -> str:
    """The hint for two trees of one call with different structures."""
    if what == "updates" and _is_value_and_grad(tree):
        return _VALUE_AND_GRAD
    if other_what == "state":
        return " The state is for other parameters: call tx.init(params) again for a changed model."
    if (what, other_what) == ("updates", "params"):
        if is_packed(tree) != is_packed(other):
            return (
                " Packed parameters need packed gradients: differentiate "
                "lambda p: loss(gradflow.packed.unpack(p)), or pack the gradients."
            )
        return " Gradients have the structure of the differentiated parameters: pass those parameters."
    return ""


def unlike_shapes(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    """The hint for two leaves at one path with different shapes."""
    if len(shape) == len(other) + 1 and shape[1:] == other and shape[0] > 1:
        return f" Average the gradients of {shape[0]} examples or devices before update."
    return ""


def wrong_leaf(leaf: Any) -> str:
    """The hint for a leaf that is not a floating-point array."""
    if callable(leaf):
        return " Functions of a module are not parameters: pass its arrays, and None for other leaves."
    return " To leave other leaves out, use masked(tx, gradflow.dtype(jax.numpy.inexact))."


def wrong_state(state: Any, expected: str) -> str:
    """The hint for a state that does not belong to the called stage."""
    if _is_result(state):
        return f"{_RESULT} its second item."
    if type(state).__module__.split(".")[0] == "optax" or _has_optax(state):
        return " This state is Optax's: convert it with gradflow.interop.from_optax_state(tx, state, params)."
    if state is None:
        return " The first state is tx.init(params)."
    if "CodedState" in (type(state).__name__, expected.split()[-1]):
        return CONVERT
    return f" {_ORDER}, with the state from the init of the same transformation."


def missing_extra_argument(name: str) -> str:
    """The hint for an extra argument that update was not given: who passes it."""
    if name in ("value", "grad", "value_fn", "obj_fn", "grad_fn"):
        return ". The step of gradflow.make_step(loss_fn, tx) passes it."
    return ""


def _has_optax(state: Any) -> bool:
    return isinstance(state, tuple) and any(type(part).__module__.split(".")[0] == "optax" for part in state)


def _looks_like_state(tree: Any) -> bool:
    """Whether a tree is a named tuple whose class name ends in State, or a tuple with one."""
    parts = tree if type(tree) is tuple else (tree,)
    return any(isinstance(part, tuple) and type(part).__name__.endswith("State") for part in parts)


def _is_result(value: Any) -> bool:
    """Whether a value looks like the pair (updates, state) that update returns."""
    return (
        type(value) is tuple
        and len(value) == 2
        and not _looks_like_state((value[0],))
        and not isinstance(value[0], jax.Array | np.ndarray)
        and (_looks_like_state(value[1]) or _looks_like_state((value[1],)))
        and type(value[0]) is not tuple
    )


def _is_value_and_grad(value: Any) -> bool:
    """Whether a value looks like the result of `jax.value_and_grad`, with or without auxiliary data."""
    if type(value) is not tuple or len(value) != 2 or jax.tree_util.all_leaves([value[1]]):
        return False
    loss = value[0][0] if type(value[0]) is tuple and value[0] else value[0]
    return getattr(loss, "shape", None) == () or isinstance(loss, float)


def _alike(tree: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(tree)
    return structure.num_leaves > 0 and structure == jax.tree.structure(other)
