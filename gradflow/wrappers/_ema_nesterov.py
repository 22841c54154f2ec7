"""A look ahead along the averaged steps of any optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Mean
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._leaves import accumulator


class EmaNesterovState(NamedTuple):
    """Steps taken, the averaged step, the strength of the last look ahead, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    momentum: Mean
    strength: jax.Array
    inner_state: OptState


def ema_nesterov_scalars(decay: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the newest step."""
    return {"c": 1 - decay}


def ema_nesterov_rule(u: jax.Array, momentum: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """With x = y - before * momentum the step of x is u + before * momentum, so x need not be stored."""
    momentum = s.decay * momentum + s.c * (u + s.before * momentum)
    return u + s.strength * momentum, momentum


@transformation(packable=True)
def ema_nesterov(inner: GradientTransformation, decay: Decay = 0.99, strength: NonNegative = 0.3) -> Pair:
    """Takes gradients at a point `y` ahead of the iterate `x`, along the average of its steps.

        x_new = y + inner(g at y)
        m = decay * m + (1 - decay) * (x_new - x)
        y = x_new + strength * m

    The parameters are y.

    Args:
      inner: the whole optimizer: a stage after this one would change the step that is averaged.
      decay: of the averaged step, in [0, 1); 0.99 in the published runs.
      strength: >= 0. The published runs follow the learning rate from 0.3 down, and have 0 in the first
        tenth of the steps and in the last third, so that y is x in the end.

    The average is held in float32 at least. Source: modded-nanogpt, optimization track, 2026.

    >>> import gradflow as gf
    >>> print(gf.ema_nesterov(gf.adamw(0.001)))
    ema_nesterov(adamw(0.001))
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # refuses leaves that are not numbers
        momentum = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        dtype = accumulator(jax.tree.leaves(params), real=True)
        return EmaNesterovState(zero_scalar(params), momentum, zero_scalar(params, dtype), inner_state)

    def update(
        updates: Updates, state: EmaNesterovState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmaNesterovState]:
        u, inner_state = inner.update(updates, state.inner_state, params, **extra)
        u, momentum = leafwise(
            ema_nesterov_rule, (u, state.momentum), ema_nesterov_scalars,
            decay=decay, strength=strength, before=state.strength,
        )  # fmt: skip
        now = jnp.zeros_like(state.strength) + jnp.asarray(strength, state.strength.dtype)
        return u, EmaNesterovState(increment(state.count), momentum, now, inner_state)

    return init, update
