"""Adagrad: learning rates that fall with the sum of squared gradients."""

from typing import Any, NamedTuple

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import InitialNonNegative, NonNegative, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt, saturated
from gradflow._rules._roles import Sum
from gradflow._rules._state import second_moment
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate


class ScaleByRssState(NamedTuple):
    """The sum of squared gradients."""

    sum_of_squares: Sum


@traced_once
def adagrad_rule(g: jax.Array, total: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Duchi, Hazan & Singer 2011, with the diagonal of G."""
    total = saturated(total) + bounded_square(g)
    return bounded(g) / safe_sqrt(total + s.eps), total


@transformation(packable=True)
def scale_by_rss(initial_accumulator_value: InitialNonNegative = 0.1, eps: NonNegative = 1e-7) -> Pair:
    """Divides the gradient by the root of the sum of its squares so far.

        sum_of_squares = sum_of_squares + |g|^2
        u = g / sqrt(sum_of_squares + eps)

    Args:
      initial_accumulator_value: the first sum, >= 0; 0.1 as in Keras, where PyTorch has 0.
      eps: added inside the root, >= 0.

    Source: Duchi, Hazan & Singer 2011, JMLR 12.
    """

    def init(params: Params) -> OptState:
        return ScaleByRssState(second_moment(params, value=initial_accumulator_value))

    def update(
        updates: Updates, state: ScaleByRssState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRssState]:
        u, total = leafwise(adagrad_rule, (updates, state.sum_of_squares), eps=eps)
        return u, ScaleByRssState(total)

    return init, update


@transformation
def adagrad(
    learning_rate: Rate, initial_accumulator_value: InitialNonNegative = 0.1, eps: NonNegative = 1e-7
) -> GradientTransformation:
    """Adagrad: `scale_by_rss`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_rss`.
    """
    return chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate))
