"""Gradient descent, with momentum or with noise."""

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
      learning_rate: a number >= 0 or a schedule.
      momentum: decay of the trace, in [0, 1]; None keeps no trace.
      nesterov: Nesterov's accelerated gradient, as in `trace`.
      accumulator_dtype: dtype of the trace; the parameters' by default.
      dampening: in [0, 1], as in PyTorch: the share of each gradient but the first left out of the trace.

    Raises ValueError for nesterov or dampening without momentum.
    Source: Robbins & Monro 1951; Polyak 1964 for momentum; Nesterov 1983 and Sutskever et al. 2013.
    """
    if momentum is None:
        needing = "nesterov=True" if nesterov else "dampening" if dampening is not None else None
        if needing:
            raise ValueError(
                f"sgd: argument 'momentum' must be a number with {needing}; got None. Pass momentum=0.9, say."
            )
        memory = identity()
    elif dampening is None:
        memory = trace(momentum, nesterov, accumulator_dtype)
    else:
        memory = dampened_trace(momentum, dampening, nesterov, accumulator_dtype)
    return chain(memory, scale_by_learning_rate(learning_rate))


@transformation
def noisy_sgd(
    learning_rate: Rate,
    eta: NonNegative = 0.01,
    gamma: NonNegative = 0.55,
    key: Any = None,
    *,
    seed: Any = None,
) -> GradientTransformation:
    """Gradient descent with Gaussian noise: `add_noise`, then the rate.

        u = -learning_rate * (g + noise),  noise of variance eta / (1 + t)^gamma

    Args:
      learning_rate: a number >= 0 or a schedule.
      eta: variance of the noise at the first step, >= 0.
      gamma: power by which the variance falls, >= 0.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed; None is 0, with a warning.
      seed: another name of `key`.

    Source: Neelakantan et al. 2015, arXiv:1511.06807.
    """
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))
