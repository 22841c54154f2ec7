"""States in narrower or wider dtypes, for any optimizer."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._coding._make import rounded_leaf
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe, names_hint
from gradflow._rules._roles import ROLES
from gradflow._types import Pair
from gradflow.wrappers._coded_state import Coder, Field, check_real, check_rounding, coded_state, fields_of

_DTYPES = {
    "mean": ("float32", "bfloat16", "float16"),
    "square": ("float32", "bfloat16"),
    "sum": ("float32", "bfloat16"),
}
_NOT_CAST = {
    "weights": "a step that is smaller than their rounding would be lost",
    "other": "its rounding has no general meaning",
}


@transformation
def cast_state(
    inner: GradientTransformation, dtypes: Mapping[str, Any], rounding: str = "stochastic"
) -> Pair:
    """Keeps parts of the state of `inner` in other dtypes. The rules compute in float32.

        cast_state(adamw(1e-3), {"mean": "bfloat16"})
        cast_state(adamw(1e-3), {"mean": "bfloat16", "square": "bfloat16", "scale_by_adam.nu": "float32"})

    Args:
      dtypes: by role or by stage and field, which has precedence. The roles are "mean", signed averages;
        "square", averages of squares; and "sum", what grows. A mean may have float16, squares and sums may
        not, because they leave its range.
      rounding: "stochastic" has no bias: a hash of seed, step and place decides. "nearest" loses what is
        smaller than half a step: with decay 0.999 an average in bfloat16 stands still.

    Raises ValueError for a role or field that no stage has, for copies of parameters, and for a dtype that
    does not fit the role; TypeError for a complex array.

    >>> import gradflow as gf
    >>> print(gf.cast_state(gf.adamw(1e-3), {"mean": "bfloat16"}))
    cast_state(adamw(0.001), {'mean': 'bfloat16'})
    """
    check_rounding("cast_state", rounding)
    if not dtypes:
        raise ValueError("cast_state: argument 'dtypes' must name at least one role or field; got none")
    fields = fields_of(inner)
    wanted = {key: _checked(key, value, fields) for key, value in dtypes.items()}
    own = {fields[key]: dtype for key, dtype in wanted.items() if key in fields}

    def coder_of(field: Field) -> Coder | None:
        dtype = own.get(field, wanted.get(field.role))
        return None if dtype is None else functools.partial(_cast, field, dtype)

    return coded_state(inner, coder_of, rounding)


def _cast(field: Field, dtype: np.dtype, leaf: jax.Array, seed: Any) -> Any:
    check_real(field, leaf)
    return leaf.astype(dtype) if dtype.itemsize >= leaf.dtype.itemsize else rounded_leaf(leaf, seed, dtype)


def _checked(key: str, value: Any, fields: Mapping[str, Field]) -> np.dtype:
    """The dtype for a role or field; raises ValueError where there is none such, or it does not fit."""
    roles = {field.role for field in fields.values()}
    if key not in fields and (key not in ROLES or (fields and key not in roles)):
        there = ", ".join([*(role for role in ROLES if role in roles), *fields]) or "none"
        raise ValueError(
            f"cast_state: argument 'dtypes' must name roles or fields of the state; got {describe(key)}. "
            f"There are: {there}. {names_hint(str(key), [*roles, *fields], 0)}".rstrip()
        )
    role = fields[key].role if key in fields else key
    if role in _NOT_CAST:
        raise ValueError(
            f"cast_state: argument 'dtypes' must not name {key!r}, which holds {role}: {_NOT_CAST[role]}"
        )
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _DTYPES[role]:
        raise ValueError(
            f"cast_state: the dtype of {key!r} must be one of {', '.join(_DTYPES[role])}; "
            f"got {describe(value)}"
        )
    return dtype
