"""COCOB: gradient descent by coin betting, whose step sizes follow from the reward so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative, Positive, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded
from gradflow._rules._roles import Sum, Weights
from gradflow._rules._state import at_least_float32, second_moment
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import InitialPositive
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class COCOBState(NamedTuple):
    """First parameters, negative sum of gradients, maximum and sum of their absolute values, reward."""

    init_particles: Weights
    cumulative_gradients: Sum
    scale: Sum
    subgradients: Sum
    reward: Sum


def cocob_rule(
    g: jax.Array,
    p0: jax.Array,
    theta: jax.Array,
    scale: jax.Array,
    total: jax.Array,
    reward: jax.Array,
    p: jax.Array,
    s: Any,
) -> tuple[jax.Array, ...]:
    """Orabona & Tommasi 2017, Algorithm 2."""
    scale = jnp.maximum(scale, jnp.abs(bounded(g)) + (g - g))
    total = total + jnp.abs(bounded(g))
    limit = jnp.finfo(p.dtype).max / 4
    # max(reward - loss, 0) and a largest number, as a difference: XLA would compute a maximum again for the
    # update, from the old reward.
    loss = bounded(g) * (p - p0)
    reward = reward - jnp.clip(loss, reward - 2 * limit, reward)
    theta = theta - bounded(g)
    # theta / (L * max(G + L, alpha * L)) * (L + R), in units of L so that no product overflows.
    wealth = (1 + reward / scale) / jnp.maximum(total / scale + 1, s.alpha)
    # A constant gradient makes the wealth grow exponentially; a target out of range would give NaN.
    target = jnp.clip(p0 + theta / scale * wealth, -limit, limit)
    # The copy costs nothing when compiled with donation; without it two states would share a buffer.
    return target - p, jnp.copy(p0), theta, scale, total, reward


@transformation(leaves="real", packable=True)
def scale_by_cocob(alpha: Positive = 100.0, eps: InitialPositive = 1e-8) -> Pair:
    """Steps by coin betting, per element. It includes the minus sign: no learning rate follows.

        L = max(L, |g|),  G = G + |g|,  theta = theta - g
        R = max(R - g * (p - p0), 0)
        u = p0 + theta / (L * max(G + L, alpha * L)) * (L + R) - p

    Args:
      alpha: > 0; it limits the first steps to `1 / alpha` of `L + R`.
      eps: the first L, > 0.

    In the state L is called `scale`, G `subgradients`, theta `cumulative_gradients`, R `reward`. Needs
    `params`.
    Source: Orabona & Tommasi 2017, arXiv:1705.07795.
    """

    def init(params: Params) -> OptState:
        theta, total, reward = (
            jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params) for _ in range(3)
        )
        start = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        return COCOBState(start, theta, second_moment(params, value=eps), total, reward)

    def update(updates: Updates, state: COCOBState, params: Params) -> tuple[Updates, COCOBState]:
        u, *new = leafwise(cocob_rule, (updates, *state, params), alpha=alpha)
        return u, COCOBState(*new)

    return init, update


@transformation
def cocob(
    learning_rate: Rate = 1.0,
    alpha: Positive = 100.0,
    eps: InitialPositive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """COCOB: an L2 penalty, the learning rate times the gradient, then `scale_by_cocob`.

    Args:
      learning_rate: a number >= 0 or a schedule. A schedule weights gradients relative to each other; a
        constant has no effect, because the rule does not depend on the scale of gradients.
      weight_decay: weight of the penalty, >= 0.
      mask: where to decay; see `add_decayed_weights`.

    The others and the source as in `scale_by_cocob`.
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )
