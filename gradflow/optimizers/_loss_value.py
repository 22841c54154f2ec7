"""The loss that a step is told beside its gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow._frames import stage_name


def loss_value(value: Any, dtype: Any) -> jax.Array:
    """The extra argument `value` as a scalar of `dtype`.

    Raises ValueError for an array that is no scalar, TypeError for what is no real number.
    """
    expected = f"{stage_name()}: the extra argument 'value' must be the loss at params, a real scalar"
    kind = getattr(value, "dtype", None)
    if kind is None and not isinstance(value, int | float):
        raise TypeError(f"{expected}; got {describe(value)}")
    if kind is not None and (not jnp.issubdtype(kind, np.number) or is_complex(kind)):
        raise TypeError(f"{expected}; got {describe(value)}")
    if np.shape(value) != ():
        raise ValueError(f"{expected}; got {describe(value)}")
    return jnp.asarray(value).astype(dtype)
