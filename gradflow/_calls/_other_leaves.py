"""Errors for wrong leaves of trees and states, in calls that failed inside jax or Python."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gradflow._calls._checks import WrongStateError
from gradflow._errors import describe
from gradflow.tree._paths import path_string, show

_NUMBERS = (bool, int, float, complex, jax.Array, np.ndarray, np.generic)


def refuse_other_leaves(stage: str, arguments: Mapping[str, Any], error: Exception) -> None:
    """Raises the error for the first leaf that is not an array of numbers, unless `error` has another cause.

    It names a stage then, or is not what Python and jax raise for such a leaf. A leaf without an update may
    be anything, so `error` is kept as the cause.
    """
    if _names_a_stage(stage, error) or not isinstance(error, TypeError | AttributeError):
        return
    for name, tree in arguments.items():
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            hint = ""
            if isinstance(leaf, jax.ShapeDtypeStruct):
                hint = " Only init takes shapes; jax.eval_shape(tx.update, ...) traces an update of them."
            elif isinstance(leaf, _NUMBERS):
                continue
            raise TypeError(
                f"{stage}: argument '{name}' must have arrays as its leaves; got {describe(leaf)} at "
                f"{show(path_string(keys))}.{hint}"
            ) from error


def refuse_unlike_state(stage: str, state: Any, init: Callable[[], Any], error: Exception) -> None:
    """Raises the error for the first array of a state that is not like the one that init makes.

    It is for calls that failed inside jax or Python: `error` names no stage then. A float may be of any
    width, because a state may be saved in another one.
    """
    of_a_leaf = isinstance(error, TypeError | ValueError | AttributeError | AssertionError)
    if not of_a_leaf or _names_a_stage(stage, error):
        return
    leaves, structure = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_none)
    made_by_init = init()
    wanted: Any = jax.tree.structure(made_by_init, is_leaf=_is_none)
    if wanted != structure:
        return
    expected = jax.tree.leaves(made_by_init, is_leaf=_is_none)
    for (keys, leaf), made in zip(leaves, expected, strict=True):
        if not isinstance(leaf, bool | int | float | complex) and _kind(leaf) != _kind(made):
            raise WrongStateError(
                f"{stage}: argument 'state' must be as init returns it; at {show(path_string(keys))} it has "
                f"{describe(leaf)}, init makes {describe(made)}"
            ) from error


def _names_a_stage(stage: str, error: Exception) -> bool:
    owner = r"(\w+|.*\S\.\w+(\[\d+\])?): "  # a stage's address, in which a selector may have spaces
    return re.match(rf"([\w.\[\]]+\.)?{re.escape(stage)}\b|{owner}", str(error)) is not None


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _kind(leaf: Any) -> Any:
    """The shape and the kind of numbers of a leaf, or None for a leaf that is not an array."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return None
    kinds = (jax.dtypes.prng_key, np.bool_, np.integer, np.floating, np.complexfloating)
    return leaf.shape, [jax.numpy.issubdtype(dtype, kind) for kind in kinds]
