"""Powers of decays, with exact digits and exact derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def one_minus_power(c: jax.Array, count: jax.Array) -> jax.Array:
    """`1 - (1 - c)**count` for the complement `c = 1 - b` of a decay, to full precision.

    `1 - b**t` loses its digits where b is near 1 and t small; `c` is exact by Sterbenz's lemma (b >= 0.5),
    and expm1 and log1p keep them. Zero for count 0; one for b = 0 and count > 0. Derivatives of every order
    at b = 0 are the limits from above.
    """
    t = count.astype(c.dtype)
    return _one_minus_power(*((c, t) if c.shape == t.shape else jnp.broadcast_arrays(c, t)))


@jax.custom_jvp
def _one_minus_power(c: jax.Array, t: jax.Array) -> jax.Array:
    # Functions of jax.numpy would be traced for each program: a tenth of the time to trace Adam on 12 leaves.
    one = np.ones(np.shape(c), c.dtype)
    power = jax.lax.expm1(jax.lax.mul(t, _log_decay(c)))
    return jax.lax.select(jax.lax.lt(c, one), jax.lax.neg(power), jax.lax.min(t, one))


@_one_minus_power.defjvp
def _one_minus_power_jvp(primals: Any, tangents: Any) -> Any:
    c, t = primals
    return _one_minus_power(c, t), tangents[0] * _slope_of_power(c, t)


@jax.custom_jvp
def _decay_power(c: jax.Array, t: jax.Array) -> jax.Array:
    """`(1 - c)**t`, with 1 for t = 0."""
    zero = jnp.zeros((), c.dtype)
    return jnp.where(c < jnp.ones((), c.dtype), jnp.exp(t * _log_decay(c)), (t == zero).astype(c.dtype))


@_decay_power.defjvp
def _decay_power_jvp(primals: Any, tangents: Any) -> Any:
    c, t = primals
    return _decay_power(c, t), -tangents[0] * _slope_of_power(c, t)


def _slope_of_power(c: jax.Array, t: jax.Array) -> jax.Array:
    """`t * (1 - c)**(t - 1)`, the derivative of `(1 - c)**t` but for its sign."""
    one, zero = jnp.ones((), c.dtype), jnp.zeros((), c.dtype)
    return jnp.where(t < one, zero, t * _decay_power(c, jnp.maximum(t - one, zero)))


def _log_decay(c: jax.Array) -> jax.Array:
    """`log(1 - c)`, finite at c = 1 too, where it is not used."""
    one, half = np.ones(np.shape(c), c.dtype), np.full(np.shape(c), 0.5, c.dtype)
    return jax.lax.log1p(jax.lax.neg(jax.lax.select(jax.lax.lt(c, one), c, half)))
