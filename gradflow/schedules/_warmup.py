"""Schedules with a linear warm-up before a constant, a cosine or an exponential."""

from typing import Any

import jax
import jax.numpy as jnp

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
    powered,
    progress,
    unless_one,
)
from gradflow.schedules._decay import exponential, linear


def warmup_cosine(
    count: jax.Array, *, start: Any, peak: Any, end: Any, exponent: Any, warmup: Any, steps: Any
) -> jax.Array:
    """A line up, then a power of half a cosine wave down."""
    rising = linear(count, start=start, end=peak, begin=0, steps=warmup)
    wave = powered(cosine(progress(count, warmup, steps)), exponent)
    return jnp.where(count < warmup, rising, between(peak, end, wave))


def warmup_exponential(count: jax.Array, *, start: Any, peak: Any, warmup: Any, **decay: Any) -> jax.Array:
    """A line up, then a power of the rate."""
    rising = linear(count, start=start, end=peak, begin=0, steps=warmup)
    falling = exponential(jnp.maximum(count - warmup, 0), start=peak, **decay)
    return jnp.where(count < warmup, rising, falling)


@schedule
def warmup_constant_schedule(init_value: Finite, peak_value: Finite, warmup_steps: StepsOrNone) -> Schedule:
    """Rises linearly from `init_value` to `peak_value`, then stays there.

        value = init_value + (peak_value - init_value) * min(count / warmup_steps, 1)

    Args:
      init_value: value at count 0, any number.
      peak_value: value from count `warmup_steps` on, any number.
      warmup_steps: steps below the peak, >= 0.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.

    >>> import gradflow as gf
    >>> rate = gf.warmup_constant_schedule(0.0, 1.0, 10)
    >>> [round(float(rate(count)), 3) for count in (0, 5, 10, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """
    lengths = {"begin": 0, "steps": warmup_steps}
    return follow("warmup_constant_schedule", linear, lengths, {"start": init_value, "end": peak_value})


@schedule
def warmup_cosine_decay_schedule(
    init_value: Finite,
    peak_value: Finite,
    warmup_steps: StepsOrNone,
    decay_steps: Steps,
    end_value: Finite = 0.0,
    exponent: Positive = 1.0,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Rises linearly to `peak_value`, then decays along half a cosine wave to `end_value`.

        t = min((count - warmup_steps) / (decay_steps - warmup_steps), 1)
        value = init_value + (peak_value - init_value) * count / warmup_steps    while count < warmup_steps
        value = end_value + (peak_value - end_value) * ((1 + cos(pi * t)) / 2) ** exponent         from then

    Args:
      init_value: value at count 0, any number; not used where `warmup_steps` is 0.
      peak_value: value at count `warmup_steps`, any number.
      warmup_steps: steps below the peak, >= 0.
      decay_steps: steps of warm-up and decay together, > `warmup_steps`.
      end_value: value from count `decay_steps` on, any number.
      exponent: > 0; larger ones decay earlier.
      endpoint: True reaches `end_value` on the last of the `decay_steps` steps, not after it.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.
    Source: Loshchilov & Hutter 2016, arXiv:1608.03983, for the cosine.

    >>> import gradflow as gf
    >>> rate = gf.warmup_cosine_decay_schedule(0.0, 1.0, 10, 110)
    >>> [round(float(rate(count)), 3) for count in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    steps = decay_steps - bool(endpoint) - warmup_steps
    if steps < 1:
        raise ValueError(
            f"warmup_cosine_decay_schedule: argument 'decay_steps' must include the warm-up and be > "
            f"'warmup_steps'{' + 1 with endpoint=True' if endpoint else ''}; got decay_steps={decay_steps} "
            f"and warmup_steps={warmup_steps}"
        )
    lengths = {"warmup": warmup_steps, "steps": steps}
    numbers = {"start": init_value, "peak": peak_value, "end": end_value, "exponent": unless_one(exponent)}
    return follow("warmup_cosine_decay_schedule", warmup_cosine, lengths, numbers)


@schedule
def warmup_exponential_decay_schedule(
    init_value: Finite,
    peak_value: Finite,
    warmup_steps: StepsOrNone,
    transition_steps: Steps,
    decay_rate: Positive,
    transition_begin: Begin = 0,
    staircase: bool = False,
    end_value: Finite | None = None,
) -> Schedule:
    """Rises linearly to `peak_value` in `warmup_steps` steps, then follows `exponential_decay`.

        value = init_value + (peak_value - init_value) * count / warmup_steps    while count < warmup_steps
        value = exponential_decay(peak_value, ...)(count - warmup_steps)                           from then

    Args:
      init_value: value at count 0, any number; not used where `warmup_steps` is 0.
      peak_value: value at count `warmup_steps`, any number.
      warmup_steps: steps below the peak, >= 0.
      transition_begin: steps at the peak after the warm-up; negative ones count as 0.

    The others and the errors as in `exponential_decay`. `end_value` bounds the decay, not the warm-up.

    >>> import gradflow as gf
    >>> rate = gf.warmup_exponential_decay_schedule(0.0, 1.0, 10, 100, 0.5)
    >>> [round(float(rate(count)), 3) for count in (0, 10, 110, 210)]
    [0.0, 1.0, 0.5, 0.25]
    """
    lengths = {"warmup": warmup_steps, "begin": max(transition_begin, 0), "steps": transition_steps}
    numbers = {"start": init_value, "peak": peak_value, "rate": decay_rate, "bound": end_value}
    return follow(
        "warmup_exponential_decay_schedule", warmup_exponential, lengths, numbers, staircase=bool(staircase)
    )
