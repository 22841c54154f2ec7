"""Helpers of the rules without a learning rate: a growing estimate of a distance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow._expressions._arguments import InitialPositive as InitialPositive
from gradflow._expressions._arguments import Interval
from gradflow._rules._leafwise import as_scalar
from gradflow._rules._math import one_minus_power, safe_sqrt, within
from gradflow.tree._leaves import accumulator

POSITIVE = Interval(0.0, low_open=True, at_init=True)

_DECAY = Interval(0.0, 1.0, high_open=True)


def check_betas(owner: str, betas: Any) -> None:
    """Raises TypeError or ValueError unless `betas` are two decays in [0, 1)."""
    if not isinstance(betas, tuple) or len(betas) != 2:
        raise TypeError(f"{owner}: argument 'betas' must be a pair of decays (b1, b2); got {describe(betas)}")
    for index, beta in enumerate(betas):
        if callable(beta):
            raise TypeError(
                f"{owner}: argument 'betas[{index}]' must be a number in [0, 1), not a schedule; "
                f"got {describe(beta)}"
            )
        _DECAY.check(owner, f"betas[{index}]", beta)


def scalar_dtype(params: Any) -> np.dtype:
    """The real dtype of sums over all parameters: float32 or wider."""
    return np.dtype(accumulator(jax.tree.leaves(params), real=True))


def bias_factor(b1: Any, b2: Any, count: jax.Array, dtype: np.dtype) -> jax.Array:
    """`sqrt(1 - b2**count) / (1 - b1**count)`, the bias correction of Adam's quotient."""
    b1, b2 = as_scalar(b1, dtype), as_scalar(b2, dtype)
    return safe_sqrt(one_minus_power(jnp.asarray(1 - b2), count)) / one_minus_power(
        jnp.asarray(1 - b1), count
    )


def summed(total: jax.Array, weight: jax.Array, g: jax.Array) -> jax.Array:
    """`total + weight * g`, in range, and NaN where `g` is not finite."""
    return within(total + weight * g, jnp.finfo(g.real.dtype).max / 16) + (g - g)


def add_gain(numerator: jax.Array, gain: jax.Array) -> jax.Array:
    """The sum, in range; a gain that overflowed is left out."""
    return within(numerator + jnp.where(jnp.isfinite(gain), gain, 0), jnp.finfo(gain.dtype).max / 4)


def grow_estimate(
    d: jax.Array, numerator: jax.Array, denominator: jax.Array, limit: jax.Array | float = jnp.inf
) -> jax.Array:
    """`max(d, min(numerator / denominator, limit))`; d while the quotient is undefined, without gradients.

    NaN where the denominator is: a gradient was not finite, and an estimate that stays would hide it.
    """
    known = (denominator > 0) & jnp.isfinite(denominator) & jnp.isfinite(numerator)
    quotient = jnp.where(known, numerator, 0) / jnp.where(known, denominator, 1)
    grown = jnp.where(known & jnp.isfinite(quotient), jnp.maximum(d, jnp.minimum(quotient, limit)), d)
    return jnp.where(jnp.isnan(denominator), denominator, grown)
