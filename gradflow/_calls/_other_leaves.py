"""Errors for leaves that are not arrays, in calls that failed inside jax or Python."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gradflow._errors import describe
from gradflow.tree._paths import path_string, show

_NUMBERS = (bool, int, float, complex, jax.Array, np.ndarray, np.generic)


def refuse_other_leaves(stage: str, arguments: Mapping[str, Any], error: Exception) -> None:
    """Raises the error for the first leaf that is not an array of numbers, unless `error` has another cause.

    It names a stage then, or is not what Python and jax raise for such a leaf. A leaf without an update may
    be anything, so `error` is kept as the cause.
    """
    names_a_stage = re.match(rf"([\w.\[\]]+\.)?{re.escape(stage)}\b|\w+: ", str(error))
    if names_a_stage or not isinstance(error, TypeError | AttributeError):
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
