"""Adamax: Adam with a decaying maximum in place of the root mean square."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import one_minus_power
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


def adamax_scalars(count: jax.Array, b1: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the new gradient, and the bias correction of step `count`, from 1."""
    c1 = 1 - b1
    return {"c1": c1, "debias1": 1 / one_minus_power(c1, count)}


@traced_once
def adamax_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Kingma & Ba 2014, Algorithm 2."""
    mu = s.b1 * mu + s.c1 * g
    nu = jnp.maximum(s.b2 * nu, jnp.abs(g) + s.eps)
    return s.debias1 * mu / nu, mu, nu


@transformation(packable=True)
def scale_by_adamax(b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8) -> Pair:
    """Divides the averaged gradient by a decaying maximum of the absolute gradient.

        mu = b1 * mu + (1 - b1) * g
        nu = max(b2 * nu, |g| + eps)
        u = mu / (1 - b1^t) / nu

    Args:
      b1: decay of the average, in [0, 1).
      b2: decay of the maximum, in [0, 1).
      eps: added to `|g|`, >= 0; it keeps the maximum above zero.

    Source: Kingma & Ba 2014, arXiv:1412.6980, section 7.1.
    """

    def init(params: Params) -> OptState:
        return ScaleByAdamState(zero_scalar(params), first_moment(params), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        count = increment(state.count)
        trees = (updates, state.mu, state.nu)
        u, mu, nu = leafwise(adamax_rule, trees, adamax_scalars, count=count, b1=b1, b2=b2, eps=eps)
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def adamax(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8
) -> GradientTransformation:
    """Adamax: `scale_by_adamax`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_adamax`.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transformation
def adamaxw(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-4,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """AdamaxW: `scale_by_adamax`, decoupled weight decay, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_adamax` and `adamw`.
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
