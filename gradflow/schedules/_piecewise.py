"""Pieces between boundaries: factors with jumps or along a curve, and the one-cycle policies."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow._expressions._arguments import Finite, Positive
from gradflow._expressions._functions import schedule
from gradflow._types import Schedule
from gradflow.schedules._curves import Scales, Steps, between, cosine, follow, last_step, progress


def piecewise_constant(
    count: jax.Array, *, value: Any, scales: tuple[Any, ...], boundaries: Any
) -> jax.Array:
    """Each factor from its boundary on."""
    for index, scale in enumerate(scales):
        value = value * jnp.where(count >= boundaries[index], scale, 1)
    return value


def interpolate(count: jax.Array, boundaries: Any, values: list[Any], wave: bool) -> jax.Array:
    """`values[k]` at the k-th of the edges 0, *boundaries; lines or half waves between them."""
    edges = [jnp.zeros((), count.dtype), *boundaries]
    start, end, begin, stop = values[0], values[0], edges[0], edges[0]
    for k, edge in enumerate(edges):
        here, after = count >= edge, min(k + 1, len(edges) - 1)
        start, end = jnp.where(here, values[k], start), jnp.where(here, values[after], end)
        begin, stop = jnp.where(here, edge, begin), jnp.where(here, edges[after], stop)
    share = progress(count, begin, stop - begin)
    return between(start, end, cosine(share) if wave else share)


def piecewise_interpolate(
    count: jax.Array, *, value: Any, scales: tuple[Any, ...], boundaries: Any, wave: bool
) -> jax.Array:
    """Each factor in full at its boundary."""
    values = [value]
    for scale in scales:
        values.append(values[-1] * scale)
    return interpolate(count, boundaries, values, wave)


def onecycle(
    count: jax.Array, *, peak: Any, div: Any, final_div: Any, boundaries: Any, wave: bool
) -> jax.Array:
    """Up to the peak, down, and further down; the cosine form goes down once."""
    low = peak / div
    values = [low, peak, low / final_div] if wave else [low, peak, low, low / final_div]
    return interpolate(count, boundaries, values, wave)


def _by_boundary(given: dict[int, Any] | None) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Boundaries in ascending order, and the factors that belong to them."""
    given = given or {}
    boundaries = sorted(given)
    return tuple(boundaries), tuple(given[boundary] for boundary in boundaries)


def _read_fraction(owner: str, name: str, value: Any, low: float = 0.0) -> float:
    """A plain number from `low` to 1: it determines a length, so it can be neither traced nor scheduled."""
    expected = f"{owner}: argument '{name}' must be a plain number in [{low:g}, 1]"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{expected}; got {describe(value)}")
    if not low <= value <= 1:
        raise ValueError(f"{expected}; got {value}")
    return float(value)


@schedule
def piecewise_constant_schedule(init_value: Finite, boundaries_and_scales: Scales | None = None) -> Schedule:
    """Multiplies `init_value` by the factors of all boundaries passed.

        value = init_value * prod(scale for boundary, scale in boundaries_and_scales if count >= boundary)

    Args:
      init_value: value before the first boundary, any number.
      boundaries_and_scales: a dict {boundary: factor} in any order; boundaries are first steps of the next
        piece, >= 0, and factors are numbers >= 0 that multiply one another.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.

    >>> import gradflow as gf
    >>> rate = gf.piecewise_constant_schedule(1.0, {100: 0.1, 200: 0.1})
    >>> [round(float(rate(count)), 3) for count in (0, 99, 100, 200)]
    [1.0, 1.0, 0.1, 0.01]
    """
    owner = "piecewise_constant_schedule"
    boundaries, scales = _by_boundary(boundaries_and_scales)
    numbers = {"value": init_value, "scales": scales}
    return follow(owner, piecewise_constant, {"boundaries": boundaries}, numbers)


@schedule
def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: Finite, boundaries_and_scales: Scales | None = None
) -> Schedule:
    """Interpolates `piecewise_constant_schedule`: each factor is reached at its boundary.

    Between two boundaries the value changes from one product of factors to the next, linearly or along half
    a cosine wave. The first piece starts at count 0 with `init_value`.

    Args:
      interpolate_type: "linear" or "cosine".
      init_value: value at count 0, any number.
      boundaries_and_scales: as in `piecewise_constant_schedule`.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.

    >>> import gradflow as gf
    >>> rate = gf.piecewise_interpolate_schedule("linear", 1.0, {100: 0.5})
    >>> [round(float(rate(count)), 3) for count in (0, 50, 100, 200)]
    [1.0, 0.75, 0.5, 0.5]
    """
    owner = "piecewise_interpolate_schedule"
    expected = f"{owner}: argument 'interpolate_type' must be 'linear' or 'cosine'"
    if not isinstance(interpolate_type, str):
        raise TypeError(f"{expected}; got {describe(interpolate_type)}")
    if interpolate_type not in ("linear", "cosine"):
        raise ValueError(f"{expected}; got {describe(interpolate_type)}")
    boundaries, scales = _by_boundary(boundaries_and_scales)
    numbers = {"value": init_value, "scales": scales}
    wave = interpolate_type == "cosine"
    return follow(owner, piecewise_interpolate, {"boundaries": boundaries}, numbers, wave=wave)


@schedule
def linear_onecycle_schedule(
    transition_steps: Steps,
    peak_value: Finite,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Follows the one-cycle policy linearly: up, down again by the same factor, and further down.

        value(0)                                   = peak_value / div_factor
        value(floor(pct_start * transition_steps)) = peak_value
        value(floor(pct_final * transition_steps)) = peak_value / div_factor
        value(transition_steps)                    = peak_value / div_factor / final_div_factor

    Args:
      transition_steps: steps of the whole cycle, >= 1.
      peak_value: the largest value, any number.
      pct_start: fraction of the cycle before the peak, a plain number in [0, 1].
      pct_final: fraction of the cycle before the value is back, a plain number in [pct_start, 1].
      div_factor: peak over first value, > 0.
      final_div_factor: first over last value, > 0.
      endpoint: True reaches the last value on the last of the `transition_steps` steps, not after it.

    Lengths are counted as in `gradflow.schedules`. Raises ValueError for values out of range, TypeError for
    other types.
    Source: Smith & Topin 2017, arXiv:1708.07120; the defaults are the field's.

    >>> import gradflow as gf
    >>> rate = gf.linear_onecycle_schedule(100, 1.0)
    >>> [round(float(rate(count)), 3) for count in (0, 30, 85, 100)]
    [0.04, 1.0, 0.04, 0.0]
    """
    owner = "linear_onecycle_schedule"
    pct_start = _read_fraction(owner, "pct_start", pct_start)
    pct_final = _read_fraction(owner, "pct_final", pct_final, pct_start)
    steps = last_step(owner, "transition_steps", transition_steps, endpoint)
    boundaries = (int(pct_start * steps), int(pct_final * steps), steps)
    numbers = {"peak": peak_value, "div": div_factor, "final_div": final_div_factor}
    return follow(owner, onecycle, {"boundaries": boundaries}, numbers, wave=False)


@schedule
def cosine_onecycle_schedule(
    transition_steps: Steps,
    peak_value: Finite,
    pct_start: float = 0.3,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
    *,
    endpoint: bool = False,
) -> Schedule:
    """Follows the one-cycle policy along half cosine waves: up, and down to the end.

        value(0)                                   = peak_value / div_factor
        value(floor(pct_start * transition_steps)) = peak_value
        value(transition_steps)                    = peak_value / div_factor / final_div_factor

    Arguments, errors and source as in `linear_onecycle_schedule`.

    >>> import gradflow as gf
    >>> rate = gf.cosine_onecycle_schedule(100, 1.0)
    >>> [round(float(rate(count)), 3) for count in (0, 30, 65, 100)]
    [0.04, 1.0, 0.5, 0.0]
    """
    owner = "cosine_onecycle_schedule"
    pct_start = _read_fraction(owner, "pct_start", pct_start)
    steps = last_step(owner, "transition_steps", transition_steps, endpoint)
    numbers = {"peak": peak_value, "div": div_factor, "final_div": final_div_factor}
    return follow(owner, onecycle, {"boundaries": (int(pct_start * steps), steps)}, numbers, wave=True)
