"""A warm-up, a long constant part, and a short decay: the schedule of runs whose length is not known."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow._errors import describe
from gradflow._expressions._arguments import Finite
from gradflow._expressions._functions import schedule
from gradflow._types import Schedule
from gradflow.schedules._curves import Share, Steps, StepsOrNone, between, cosine, follow, last_step, progress
from gradflow.schedules._decay import linear


def wsd(
    count: jax.Array, *, start: Any, peak: Any, end: Any, warmup: Any, begin: Any, steps: Any, shape: str
) -> jax.Array:
    """A line up, a constant, and a curve down."""
    rising = linear(count, start=start, end=peak, begin=0, steps=warmup)
    share = progress(count, begin, steps)
    if shape == "cosine":
        share = cosine(share)
    if shape == "sqrt":
        done, left = share.both()
        done = jnp.sqrt(done)
        # From the share that is left, so that the last steps keep their digits.
        left = left / (1 + done)
        early = left > 0.5
        share = Share(early, jnp.where(early, done, left))
    return jnp.where(count < warmup, rising, between(peak, end, share))


@schedule
def wsd_schedule(
    peak_value: Finite,
    warmup_steps: StepsOrNone,
    stable_steps: StepsOrNone,
    decay_steps: Steps,
    init_value: Finite = 0.0,
    end_value: Finite = 0.0,
    decay: Literal["linear", "cosine", "sqrt"] = "linear",
    *,
    endpoint: bool = False,
) -> Schedule:
    """Rises linearly to `peak_value`, stays there, then decays to `end_value`: warm-up, stable, decay.

        t = clip((count - warmup_steps - stable_steps) / decay_steps, 0, 1)
        value = init_value + (peak_value - init_value) * count / warmup_steps    while count < warmup_steps
        value = peak_value + (end_value - peak_value) * f(t)                       from then

    Args:
      peak_value: value from count `warmup_steps` on, any number.
      warmup_steps: steps below the peak, >= 0.
      stable_steps: steps at the peak, >= 0.
      decay_steps: length of the decay, >= 1; a tenth of the run is usual.
      init_value: value at count 0, any number.
      end_value: value at the end of the decay and after it, any number.
      decay: "linear", f = t; "cosine", f = (1 - cos(pi * t)) / 2; "sqrt", f = sqrt(t), which falls at once.
      endpoint: True reaches `end_value` on the last of the `decay_steps` steps, not after it.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.
    Sources: Hu et al. 2024, arXiv:2404.06395; Haegele et al. 2024, arXiv:2405.18392, for the square root.

    >>> import gradflow as gf
    >>> rate = gf.wsd_schedule(1.0, 10, 80, 10)
    >>> [round(float(rate(count)), 3) for count in (0, 5, 10, 90, 95, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if decay not in ("linear", "cosine", "sqrt"):
        raise ValueError(
            f"wsd_schedule: argument 'decay' must be 'linear', 'cosine' or 'sqrt'; got {describe(decay)}"
        )
    steps = last_step("wsd_schedule", "decay_steps", decay_steps, endpoint)
    lengths = {"warmup": warmup_steps, "begin": warmup_steps + stable_steps, "steps": steps}
    numbers = {"start": init_value, "peak": peak_value, "end": end_value}
    return follow("wsd_schedule", wsd, lengths, numbers, shape=decay)
