"""Gradient descent with differential privacy."""

from typing import Any

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Fraction, NonNegative, Positive, Rate
from gradflow.optimizers._sgd import sgd
from gradflow.transforms import differentially_private_aggregate


@transformation
def dpsgd(
    learning_rate: Rate,
    l2_norm_clip: Positive,
    noise_multiplier: NonNegative,
    key: Any = None,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    *,
    seed: Any = None,
) -> GradientTransformation:
    """DP-SGD: `differentially_private_aggregate`, then `sgd`. Takes one gradient per example.

    Args:
      learning_rate: a number >= 0 or a schedule.
      l2_norm_clip: the largest norm of one example's gradient, > 0.
      noise_multiplier: standard deviation of the noise as a multiple of that norm, >= 0.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed. It has no default.
      momentum: decay of the sum of gradients, in [0, 1]; None keeps no state for it.
      nesterov: uses the momentum of the next step.
      seed: another name of `key`.

    It does not account for the privacy budget. Source: Abadi et al. 2016, arXiv:1607.00133.
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, key, seed=seed),
        sgd(learning_rate, momentum, nesterov),
    )
