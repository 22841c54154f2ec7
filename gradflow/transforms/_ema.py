"""Decaying averages of updates."""

from typing import Any, NamedTuple

import jax

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import one_minus_power
from gradflow._rules._roles import Mean
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates


class EmaState(NamedTuple):
    """Steps taken, and the average."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    ema: Mean


def ema_scalars(decay: jax.Array, count: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the new update, and the bias correction of step `count`, from 1."""
    c = 1 - decay
    return {"c": c, "debias": 1 / one_minus_power(c, count)}


@traced_once
def debiased_ema_rule(g: jax.Array, average: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average of the updates so far, corrected for the start at zero."""
    average = s.decay * average + s.c * g
    return s.debias * average, average


@traced_once
def ema_rule(g: jax.Array, average: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average without bias correction."""
    average = s.decay * average + s.c * g
    return average, average


@transformation(packable=True)
def ema(decay: Decay, debias: bool = True, accumulator_dtype: Any = None) -> Pair:
    """Averages updates with exponentially decaying weights.

        ema = decay * ema + (1 - decay) * g
        u = ema / (1 - decay^t)         with debias=False:  u = ema

    Args:
      decay: of the average, in [0, 1).
      debias: divides by the sum of the weights so far.
      accumulator_dtype: dtype of the average; float32 at least by default, because of decays near 1.

    Unlike with `trace`, a constant update keeps its size.

    >>> import gradflow as gf
    >>> tx = gf.ema(0.9)
    >>> updates, state = tx.update(3.0, tx.init(0.0))
    >>> round(float(updates), 3)
    3.0
    """
    rule = debiased_ema_rule if debias else ema_rule

    def init(params: Params) -> OptState:
        average = jax.tree.map(
            lambda p: first_moment(p, accumulator_dtype or at_least_float32(p.dtype)), params
        )
        return EmaState(zero_scalar(params), average)

    def update(updates: Updates, state: EmaState, params: Params | None = None) -> tuple[Updates, EmaState]:
        count = increment(state.count)
        u, average = leafwise(rule, (updates, state.ema), ema_scalars, decay=decay, count=count)
        return u, EmaState(count, average)

    return init, update
