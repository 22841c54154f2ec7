"""Optimistic descent: the next gradient is extrapolated from the last change."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._kernel_hints._placement import in_place_of
from gradflow._rules._leafwise import leafwise
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._adam import scale_by_adam
from gradflow.transforms import scale_by_learning_rate


class ScaleByOptimisticGradientState(NamedTuple):
    """Whether no step has been taken, and the last gradient."""

    is_initial_step: jax.Array
    previous_gradient: Mean


def optimistic_rule(g: jax.Array, previous: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Mokhtari et al. 2019, equation 6, with separate weights for gradient and change."""
    change = jnp.where(s.first > 0, jnp.zeros_like(g), g - previous)
    # A copy, so that the state can be donated together with the gradients.
    return s.alpha * g + s.beta * change, in_place_of(previous, jnp.copy(g))


@transformation(packable=True)
def scale_by_optimistic_gradient(alpha: NonNegative = 1.0, beta: NonNegative = 1.0) -> Pair:
    """Adds the gradient's last change to the gradient.

        u = alpha * g + beta * (g - g_before)        u = alpha * g at the first step

    Args:
      alpha: weight of the gradient, >= 0.
      beta: weight of the change, >= 0.

    It converges to saddle points of games that gradient descent circles around.
    Source: Mokhtari et al. 2019, arXiv:1901.08511.
    """

    def init(params: Params) -> OptState:
        return ScaleByOptimisticGradientState(zero_scalar(params, bool, True), first_moment(params))

    def update(
        updates: Updates, state: ScaleByOptimisticGradientState, params: Params | None = None
    ) -> tuple[Updates, ScaleByOptimisticGradientState]:
        u, previous = leafwise(
            optimistic_rule, (updates, state.previous_gradient),
            alpha=alpha, beta=beta, first=state.is_initial_step,
        )  # fmt: skip
        return u, ScaleByOptimisticGradientState(jnp.zeros_like(state.is_initial_step), previous)

    return init, update


@transformation
def optimistic_gradient_descent(
    learning_rate: Rate, alpha: NonNegative = 1.0, beta: NonNegative = 1.0
) -> GradientTransformation:
    """Optimistic gradient descent: `scale_by_optimistic_gradient`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_optimistic_gradient`.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@transformation
def optimistic_adam_v2(
    learning_rate: Rate,
    *,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam: `scale_by_adam`, `scale_by_optimistic_gradient` of that, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others as in these two. Source: Daskalakis et al. 2017, arXiv:1711.00141.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
