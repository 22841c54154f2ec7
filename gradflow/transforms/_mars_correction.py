"""Variance reduction by the difference of successive gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import abs_sq, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates


class MarsCorrectionState(NamedTuple):
    """Steps taken, and the gradient of the step before."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    previous: Mean


def mars_scalars(b1: jax.Array, gamma: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the difference."""
    return {"weight": gamma * b1 / (1 - b1)}


def mars_rule(g: jax.Array, previous: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Yuan et al. 2024, equations 2.3 and 2.5, with `power` to keep sum and squares in range."""
    peak = jnp.maximum(jnp.max(jnp.abs(g), initial=0), jnp.max(jnp.abs(previous), initial=0))
    wide = jnp.finfo(peak.dtype).maxexp // 128  # 8 in float64, else 1
    small = jnp.where(peak < 2.0 ** (-40 * wide), 2.0 ** (72 * wide), 1.0)
    far = jnp.where(peak > 2.0 ** (40 * wide), 2.0 ** (-88 * wide), small)
    power = jax.lax.stop_gradient(far.astype(peak.dtype))
    c = power * g + s.weight * (power * g - power * previous)
    # Its largest number is not asked for again: a step on a mesh waits for one maximum and one sum.
    norm, limit = safe_sqrt(jnp.sum(abs_sq(c))), s.max_norm * power
    clipped = norm > limit
    # `limit / norm` would be below the range of float32 for numbers of 1e38.
    return c * jnp.where(clipped, s.max_norm / jnp.where(clipped, norm, 1), 1 / power), jnp.copy(g)


@transformation
def mars_correction(b1: Decay = 0.95, gamma: NonNegative = 0.025, max_norm: NonNegative = 1.0) -> Pair:
    """Adds a part of the change of the gradient since the last step, and limits each leaf's norm.

        c = g + gamma * b1 / (1 - b1) * (g - previous),  previous = 0 at first
        u = min(1, max_norm / norm(c)) * c
        previous = g

    Args:
      b1: the decay of the first moment in the stages that follow, in [0, 1).
      gamma: >= 0; the authors' 0.025 by default.
      max_norm: >= 0; the authors' 1 by default.

    Raises ValueError inside `shard_map` on updates that differ between devices.
    Source: Yuan et al. 2024, arXiv:2411.10438.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.mars_correction(), gf.adamw(0.001)))
    chain(mars_correction(), adamw(0.001))
    """

    def init(params: Params) -> OptState:
        return MarsCorrectionState(zero_scalar(params), first_moment(params))

    def update(
        updates: Updates, state: MarsCorrectionState, params: Params | None = None
    ) -> tuple[Updates, MarsCorrectionState]:
        refuse_varying("the norm of a leaf", updates)
        u, previous = leafwise(
            mars_rule, (updates, state.previous), mars_scalars, b1=b1, gamma=gamma, max_norm=max_norm
        )
        return u, MarsCorrectionState(increment(state.count), previous)

    return init, update
