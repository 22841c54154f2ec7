"""Elementary functions for rules, with exact digits and finite derivatives."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import is_complex


def one_minus_power(c: jax.Array, count: jax.Array) -> jax.Array:
    """`1 - (1 - c)**count` for the complement `c = 1 - b` of a decay, to full precision.

    `1 - b**t` loses its digits where b is near 1 and t small; `c` is exact by Sterbenz's lemma (b >= 0.5),
    and expm1 and log1p keep them. Zero for count 0; one for b = 0 and count > 0.
    """
    t = count.astype(c.dtype)
    one = jnp.ones((), c.dtype)
    # At c = 1 the logarithm is -inf, whose gradient is no number; b = 0 has only the limit.
    inside = jnp.where(c < one, c, jnp.full((), 0.5, c.dtype))
    return jnp.where(c < one, -jnp.expm1(t * jnp.log1p(-inside)), jnp.minimum(t, one))


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|**2`, real for complex x."""
    return x.real * x.real + x.imag * x.imag if is_complex(x.dtype) else x * x


@jax.custom_jvp
def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0, where the true one is infinite.

    A parameter that has never had a gradient has second moment 0, and 0 times infinity is no number.
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
