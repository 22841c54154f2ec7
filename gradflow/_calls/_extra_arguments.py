"""Extra arguments of an update: checks of their values and names."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._dtypes import is_complex
from gradflow._errors import describe


def real_scalar(what: str, value: Any) -> jax.Array:
    """A real scalar as an array; TypeError for a value that is not a real number, ValueError for a shape."""
    expected = f"{stage_name()}: {what} must be a real scalar"
    dtype = getattr(value, "dtype", None)
    known = isinstance(value, int | float) if dtype is None else jnp.issubdtype(dtype, np.number)
    if not known or (dtype is not None and is_complex(dtype)):
        raise TypeError(f"{expected}; got {describe(value)}")
    if np.shape(value) != ():
        raise ValueError(f"{expected}; got {describe(value)}")
    return jnp.asarray(value)


def loss_value(value: Any) -> jax.Array:
    """The extra argument `value`, the loss at the parameters, which must be a real scalar."""
    return real_scalar("the extra argument 'value' (the loss)", value)


# Usual names of extra arguments. They are never treated as misspellings of each other.
_VOCABULARY = frozenset(
    ["value", "values", "grad", "grads", "value_fn", "grad_fn", "loss", "losses", "loss_fn", "key", "rng"]
)


def _one_edit_apart(a: str, b: str) -> bool:
    """Whether inserting, deleting, replacing or swapping one letter turns `a` into `b`."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) != len(b):
        short, long = sorted((a, b), key=len)
        return short[start:] == long[start + 1 :]
    if a[start + 1 :] == b[start + 1 :]:
        return True
    return a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]


def check_extra_names(extra: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raises TypeError for a name that is one edit away from an extra argument that a stage takes."""
    for name in extra:
        if name in known or name in _VOCABULARY:
            continue
        for meant in known:
            if meant not in extra and _one_edit_apart(name, meant):
                raise TypeError(
                    f"{stage_name()}: no stage takes the extra argument '{name}'. Did you mean '{meant}'?"
                )
