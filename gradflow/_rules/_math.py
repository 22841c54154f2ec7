"""Elementary functions for rules, with full precision and finite derivatives."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import is_complex
from gradflow.tree._decay_power import one_minus_power as one_minus_power


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|**2`, real for complex x."""
    return x.real * x.real + x.imag * x.imag if is_complex(x.dtype) else x * x


@jax.custom_jvp
def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0, where the true one is infinite.

    The second moment of a parameter without gradients is 0, and 0 times infinity is NaN.
    """
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    positive = x > jnp.zeros((), x.dtype)
    half = jnp.full((), 0.5, x.dtype)
    slope = jnp.where(positive, half / jnp.where(positive, root, jnp.ones((), x.dtype)), x * half * 0)
    return root, dx * slope
