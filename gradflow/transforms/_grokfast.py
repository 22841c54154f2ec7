"""Amplifying the slow part of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import kept_in_range
from gradflow._rules._roles import Mean
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates


class GrokfastState(NamedTuple):
    """Steps taken, and the averaged gradient."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    ema: Mean


def grokfast_scalars(count: jax.Array, alpha: jax.Array, **_: jax.Array) -> Scalars:
    """The weights of the average and of the gradient; the first gradient begins the average."""
    old = jnp.where(count > 0, alpha, jnp.zeros_like(alpha))
    return {"old": old, "new": 1 - old}


def grokfast_rule(g: jax.Array, ema: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Lee et al. 2024, Algorithm 2."""
    ema = s.old * ema + s.new * g
    return kept_in_range(g + s.lamb * ema, ema), ema


@transformation(packable=True)
def grokfast(alpha: Decay = 0.98, lamb: NonNegative = 2.0) -> Pair:
    """Adds a multiple of the averaged gradient to the gradient: GrokFast-EMA.

        ema = alpha * ema + (1 - alpha) * g,  ema = g at first
        u = g + lamb * ema

    It belongs in front of an optimizer: `chain(grokfast(), adamw(rate))`.

    Args:
      alpha: decay of the average, in [0, 1); the authors' 0.98 by default.
      lamb: weight of the average, >= 0; the authors' 2 by default.

    The average is held in float32 at least. Source: Lee et al. 2024, arXiv:2405.20233.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.grokfast(), gf.adamw(0.001)))
    chain(grokfast(), adamw(0.001))
    """

    def init(params: Params) -> OptState:
        ema = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        return GrokfastState(zero_scalar(params), ema)

    def update(
        updates: Updates, state: GrokfastState, params: Params | None = None
    ) -> tuple[Updates, GrokfastState]:
        u, ema = leafwise(
            grokfast_rule, (updates, state.ema), grokfast_scalars, count=state.count, alpha=alpha, lamb=lamb
        )
        return u, GrokfastState(increment(state.count), ema)

    return init, update
