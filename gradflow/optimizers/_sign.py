"""Gradient descent by signs, of gradients or of their average."""

from typing import Any

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Rate
from gradflow.transforms import ema, scale_by_learning_rate, scale_by_sign


@transformation
def sign_sgd(learning_rate: Rate) -> GradientTransformation:
    """Steps by the sign of the gradient.

        u = -learning_rate * sign(g)

    Args:
      learning_rate: a number >= 0 or a schedule.

    Source: Bernstein et al. 2018, arXiv:1802.04434.
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@transformation
def signum(learning_rate: Rate, beta: Decay = 0.9, accumulator_dtype: Any = None) -> GradientTransformation:
    """The sign of averaged gradients: `m = beta * m + (1 - beta) * g`, `u = -learning_rate * sign(m)`.

    Args:
      learning_rate: a number >= 0 or a schedule.
      beta: decay of the average, in [0, 1).
      accumulator_dtype: dtype of the average.

    Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )
