"""NaN in arrays of which only the largest or smallest number is taken."""

from typing import Any

import jax
import jax.numpy as jnp


def nan_of(x: jax.Array, axis: Any = None, *, keepdims: bool = False) -> jax.Array:
    """NaN along the axes where `x` has one, and 0 where it has none, to add to a maximum or minimum.

    A maximum leaves a NaN out on a CPU, where XLA compares many numbers at once: of 4000 numbers, not of 7.
    So do `maximum` and `minimum` in a kernel that adds up, and `pmax`. `clamp` and `where` keep it.
    """
    zero = jnp.zeros((), x.dtype)
    return jnp.sum(jnp.where(x != x, x, zero), axis, keepdims=keepdims)
