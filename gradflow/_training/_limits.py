"""Limits of a solve, such as its most steps and its tolerance, as arrays that are already on the device.

A number of Python or NumPy is copied to the device by every call, which was a fifth of the time that
`minimize` took for three parameters.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

_config: Any = jax.config


def count_limit(value: Any) -> jax.Array:
    """A number of steps or rounds as an array."""
    return value if isinstance(value, jax.Array) else _on_device(int(value), jnp.int32, False)


def tolerance(value: Any) -> jax.Array:
    """A tolerance as an array of the default precision."""
    return value if isinstance(value, jax.Array) else _on_device(float(value), float, _config.jax_enable_x64)


@functools.lru_cache(maxsize=64)
def _on_device(value: float, dtype: Any, _: bool) -> jax.Array:
    # Inside of a trace too, whose tracers must not be kept.
    with jax.ensure_compile_time_eval():
        return jnp.asarray(value, dtype)
