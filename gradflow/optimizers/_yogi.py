"""Yogi: Adam whose second moment changes by a multiple of the new square."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, InitialNonNegative, NonNegative, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._state import increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState, adam_scalars
from gradflow.transforms import scale_by_learning_rate


@traced_once
def yogi_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Zaheer et al. 2018, Algorithm 2."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    square = bounded_square(g)
    step = s.c2 * square
    nu = nu - jnp.sign(nu - square) * step
    return mu / (s.bias1 * (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)), mu, nu


@transformation
def scale_by_yogi(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: InitialNonNegative = 1e-6,
) -> Pair:
    """`scale_by_adam` with a second moment that falls slowly where gradients vanish.

        mu = b1 * mu + (1 - b1) * g
        nu = nu - (1 - b2) * sign(nu - |g|^2) * |g|^2
        u = (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: one minus the weight of a square in the second moment, in [0, 1).
      eps: added outside the root, >= 0; 1e-3 as in the paper.
      eps_root: added inside the root, >= 0.
      initial_accumulator_value: first value of both moments, >= 0.

    Source: Zaheer et al. 2018, "Adaptive methods for nonconvex optimization".
    """

    def init(params: Params) -> OptState:
        return ScaleByAdamState(
            zero_scalar(params),
            tree.full_like(params, initial_accumulator_value),
            second_moment(params, value=initial_accumulator_value),
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            yogi_rule, (updates, state.mu, state.nu), adam_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def yogi(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-3
) -> GradientTransformation:
    """Yogi: `scale_by_yogi`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_yogi`.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))
