"""Schedules from one value to another: constant, linear, polynomial, exponential, cosine."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._expressions._arguments import Finite, Positive
from gradflow._expressions._functions import schedule
from gradflow._types import Schedule
from gradflow.schedules._curves import (
    Begin,
    Steps,
    StepsOrNone,
    between,
    cosine,
    follow,
    last_step,
    powered,
    progress,
    ratio,
    unless_one,
    without_length,
)


def constant(count: jax.Array, *, value: jax.Array) -> jax.Array:
    """A constant."""
    return value


def linear(count: jax.Array, *, start: Any, end: Any, begin: Any, steps: Any) -> jax.Array:
    """A straight line."""
    return between(start, end, progress(count, begin, steps))


def polynomial(count: jax.Array, *, start: Any, end: Any, power: Any, begin: Any, steps: Any) -> jax.Array:
    """A power of the remaining share."""
    return between(start, end, powered(progress(count, begin, steps), power))


def cosine_decay(count: jax.Array, *, start: Any, alpha: Any, exponent: Any, steps: Any) -> jax.Array:
    """A power of half a cosine wave."""
    return between(start, alpha * start, powered(cosine(progress(count, 0, steps)), exponent))


def exponential(
    count: jax.Array, *, start: Any, rate: Any, bound: Any, begin: Any, steps: Any, staircase: bool
) -> jax.Array:
    """A power of `rate` that grows with the count."""
    n = jnp.maximum(count - begin, 0)
    exponent = (n // steps).astype(rate.dtype) if staircase else ratio(n, steps)
    # Growth is capped before the value or its slope, up to 2**31 times larger, overflows.
    largest = np.log(np.finfo(rate.dtype).max) - 22
    limit = jax.lax.stop_gradient(largest / jnp.maximum(jnp.log(rate), 0))
    value = start * jnp.power(rate, jnp.minimum(exponent, limit))
    if bound is None:
        return value
    return jnp.where(rate < 1, jnp.maximum(value, bound), jnp.minimum(value, bound))


@schedule
def constant_schedule(value: Finite) -> Schedule:
    """Returns `value` at every count.

    Args:
      value: any number.

    >>> import gradflow as gf
    >>> float(gf.constant_schedule(0.5)(1000))
    0.5
    """
    return follow("constant_schedule", constant, {}, {"value": value})


@schedule
def linear_schedule(
    init_value: Finite,
    end_value: Finite,
    transition_steps: StepsOrNone,
    transition_begin: Begin = 0,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Changes linearly from `init_value` to `end_value`.

        t = clip(count - transition_begin, 0, transition_steps)
        value = init_value + (end_value - init_value) * t / transition_steps

    Args:
      init_value: value until `transition_begin`, any number.
      end_value: value from `transition_begin + transition_steps` on, any number.
      transition_steps: length of the change, >= 0; 0 changes to `end_value` at `transition_begin` at once.
      transition_begin: steps before it; negative ones count as 0.
      endpoint: True reaches `end_value` on the last of the `transition_steps` steps, not after it.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.

    >>> import gradflow as gf
    >>> rate = gf.linear_schedule(1.0, 0.0, 100)
    >>> [round(float(rate(count)), 3) for count in (0, 50, 100, 200)]
    [1.0, 0.5, 0.0, 0.0]
    """
    steps = last_step("linear_schedule", "transition_steps", transition_steps, endpoint)
    begin, steps = without_length(transition_begin, steps)
    lengths = {"begin": begin, "steps": steps}
    return follow("linear_schedule", linear, lengths, {"start": init_value, "end": end_value})


@schedule
def polynomial_schedule(
    init_value: Finite,
    end_value: Finite,
    power: Positive,
    transition_steps: StepsOrNone,
    transition_begin: Begin = 0,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Changes from `init_value` to `end_value` along a power of the remaining share.

        t = clip(count - transition_begin, 0, transition_steps)
        value = end_value + (init_value - end_value) * (1 - t / transition_steps) ** power

    Args:
      power: > 0; 1 is `linear_schedule`, larger ones change early and end flat.

    The others and the errors as in `linear_schedule`.

    >>> import gradflow as gf
    >>> rate = gf.polynomial_schedule(1.0, 0.0, 2, 100)
    >>> [round(float(rate(count)), 3) for count in (0, 50, 100)]
    [1.0, 0.25, 0.0]
    """
    steps = last_step("polynomial_schedule", "transition_steps", transition_steps, endpoint)
    begin, steps = without_length(transition_begin, steps)
    lengths = {"begin": begin, "steps": steps}
    numbers = {"start": init_value, "end": end_value, "power": unless_one(power)}
    return follow("polynomial_schedule", polynomial, lengths, numbers)


@schedule
def exponential_decay(
    init_value: Finite,
    transition_steps: Steps,
    decay_rate: Positive,
    transition_begin: Begin = 0,
    staircase: bool = False,
    end_value: Finite | None = None,
) -> Schedule:
    """Multiplies `init_value` by `decay_rate` every `transition_steps` steps, smoothly or in jumps.

        t = max(count - transition_begin, 0) / transition_steps
        value = init_value * decay_rate ** (floor(t) if staircase else t)

    Args:
      init_value: value until `transition_begin`, any number.
      transition_steps: steps per factor `decay_rate`, >= 1.
      decay_rate: > 0; above 1 the value grows, at most to 1e28 * init_value. It is rounded to float32
        first: the logarithm of 0.99999 per step has an error of 3e-3; 0.99 per 1000 steps is better.
      transition_begin: steps before the decay; negative ones count as 0.
      staircase: True changes the value every `transition_steps` steps only, exactly at the boundary.
      end_value: a bound, from below for `decay_rate < 1` and from above for others; None for none.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.

    >>> import gradflow as gf
    >>> rate = gf.exponential_decay(1.0, 100, 0.5)
    >>> [round(float(rate(count)), 3) for count in (0, 50, 100, 200)]
    [1.0, 0.707, 0.5, 0.25]
    """
    lengths = {"begin": max(transition_begin, 0), "steps": transition_steps}
    numbers = {"start": init_value, "rate": decay_rate, "bound": end_value}
    return follow("exponential_decay", exponential, lengths, numbers, staircase=bool(staircase))


@schedule
def cosine_decay_schedule(
    init_value: Finite,
    decay_steps: Steps,
    alpha: Finite = 0.0,
    exponent: Positive = 1.0,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Decays from `init_value` to `alpha * init_value` along half a cosine wave.

        wave = (1 + cos(pi * min(count, decay_steps) / decay_steps)) / 2
        value = init_value * (alpha + (1 - alpha) * wave ** exponent)

    Args:
      init_value: value at count 0, any number.
      decay_steps: length of the decay, >= 1.
      alpha: end value as a fraction of `init_value`, any number.
      exponent: > 0; larger ones decay earlier.
      endpoint: True reaches the end value on the last of the `decay_steps` steps, not after it.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.
    Source: Loshchilov & Hutter 2016, arXiv:1608.03983.

    >>> import gradflow as gf
    >>> rate = gf.cosine_decay_schedule(1.0, 100)
    >>> [round(float(rate(count)), 3) for count in (0, 25, 50, 100)]
    [1.0, 0.854, 0.5, 0.0]
    """
    steps = last_step("cosine_decay_schedule", "decay_steps", decay_steps, endpoint)
    numbers = {"start": init_value, "alpha": alpha, "exponent": unless_one(exponent)}
    return follow("cosine_decay_schedule", cosine_decay, {"steps": steps}, numbers)
