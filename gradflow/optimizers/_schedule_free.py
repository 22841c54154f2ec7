"""Gradient descent and AdamW without a learning rate schedule."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate, Size
from gradflow._types import Schedule
from gradflow.optimizers._rmsprop import scale_by_rms
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.wrappers._schedule_free import Mixture, schedule_free


def warmed_up(learning_rate: Any, warmup_steps: int | None) -> Any:
    """The rate times `min(1, t / warmup_steps)` at step t, from 1."""
    if warmup_steps is None:
        return learning_rate

    def rate(count: Any) -> jax.Array:
        step = jnp.asarray(count, jnp.result_type(float)) + 1
        share = jnp.minimum(1.0, step / warmup_steps)
        value = learning_rate(count) if callable(learning_rate) else learning_rate
        return jnp.asarray(value, share.dtype) * share

    schedule: Schedule = rate
    return schedule


@transformation
def schedule_free_sgd(
    learning_rate: Rate = 1.0,
    warmup_steps: Size | None = None,
    b1: Mixture = 0.9,
    weight_decay: NonNegative | None = None,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: Any = None,
) -> GradientTransformation:
    """Gradient descent under `schedule_free`; evaluate at `schedule_free_eval_params(state, params)`.

    Args:
      learning_rate: a number >= 0 or a schedule without decay; larger than for `sgd`.
      warmup_steps: steps of linear warm-up, `t / warmup_steps` of the rate at step t, from 1.
      b1: in (0, 1]; it replaces momentum.
      weight_decay: weight of an L2 penalty, >= 0, taken at the parameters; None leaves it out.
      weight_lr_power, state_dtype: as in `schedule_free`.

    Source: Defazio et al. 2024, arXiv:2405.15682.
    """
    rate = warmed_up(learning_rate, warmup_steps)
    step = scale_by_learning_rate(rate)
    base = step if weight_decay is None else chain(add_decayed_weights(weight_decay), step)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


@transformation
def schedule_free_adamw(
    learning_rate: Rate = 0.0025,
    warmup_steps: Size | None = None,
    b1: Mixture = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: Any = None,
) -> GradientTransformation:
    """AdamW without its first moment under `schedule_free`.

    Args:
      learning_rate: a number >= 0 or a schedule without decay.
      b2: decay of the second moment, in [0, 1).
      eps: added outside the root, >= 0.
      weight_decay: >= 0, taken at the parameters, multiplied by the rate.

    The others, the parameters for evaluation and the source as in `schedule_free_sgd`.
    """
    rate = warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)
