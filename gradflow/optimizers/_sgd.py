"""Gradient descent: full batch, one sample or mini-batch, which differ in the gradient alone."""

from typing import Any

from gradflow._core._compose import chain, identity
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Fraction, NonNegative, Rate
from gradflow.transforms import add_noise, dampened_trace, scale_by_learning_rate, trace


@transformation
def sgd(
    learning_rate: Rate,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    dampening: Fraction | None = None,
) -> GradientTransformation:
    """Gradient descent: `u = -learning_rate * g`, with momentum `u = -learning_rate * trace(g)`.

    Args:
      momentum: decay of the trace, in [0, 1]; None keeps none.
      nesterov: Nesterov's accelerated gradient, `trace` with a look ahead.
      accumulator_dtype: dtype of the trace; the parameters' by default.
      dampening: PyTorch's, in [0, 1]: what each gradient but the first leaves out of the trace.

    Raises ValueError for dampening without momentum.
    Source: Robbins & Monro 1951; Polyak 1964 for momentum; Nesterov 1983 and Sutskever et al. 2013.
    """
    if momentum is None:
        if dampening is not None:
            raise ValueError("sgd: argument 'dampening' needs 'momentum', and 'momentum' is None")
        memory = identity()
    elif dampening is None:
        memory = trace(momentum, nesterov, accumulator_dtype)
    else:
        memory = dampened_trace(momentum, dampening, nesterov, accumulator_dtype)
    return chain(memory, scale_by_learning_rate(learning_rate))


@transformation
def noisy_sgd(
    learning_rate: Rate, eta: NonNegative = 0.01, gamma: NonNegative = 0.55, key: Any = None
) -> GradientTransformation:
    """Gradient descent with Gaussian noise of variance `eta / (1 + t)^gamma`: `add_noise`, then the rate.

    Args:
      eta: variance of the noise at the first step, >= 0.
      gamma: how fast the variance falls, >= 0.
      key: a PRNG key.

    Source: Neelakantan et al. 2015, arXiv:1511.06807.
    """
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))
