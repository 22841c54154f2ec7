"""Momentum whose new gradients are dampened."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates


class DampenedTraceState(NamedTuple):
    """Steps taken, and the decaying sum of gradients."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    trace: Updates


def dampening_scalars(count: jax.Array, dampening: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the new gradient: all of it at the first step, whose `count` is 0."""
    return {"gain": jnp.where(count == 0, jnp.ones_like(dampening), 1 - dampening)}


def dampened_trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The heavy ball, with only a part of each new gradient."""
    trace = s.decay * trace + s.gain * g
    return trace, trace


def nesterov_dampened_trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The same, looking one step ahead with the whole gradient."""
    trace = s.decay * trace + s.gain * g
    return s.decay * trace + g, trace


@transformation(packable=True)
def dampened_trace(
    decay: Fraction, dampening: Fraction = 0.0, nesterov: bool = False, accumulator_dtype: Any = None
) -> Pair:
    """`trace` as in PyTorch's SGD, which dampens every gradient but the first.

        trace = g                                          at the first step
        trace = decay * trace + (1 - dampening) * g        at the others
        u = trace                with nesterov:  u = decay * trace + g

    Args:
      decay: what a step leaves of the sum, in [0, 1].
      dampening: what is left out of a new gradient, in [0, 1]; with 0 the numbers are `trace`'s.
      nesterov: looks one step ahead. PyTorch allows it with dampening 0 only.
      accumulator_dtype: dtype of the sum; the parameters' by default.

    It has to know the first step, so its state is not that of `trace`.
    """
    rule = nesterov_dampened_trace_rule if nesterov else dampened_trace_rule

    def init(params: Params) -> OptState:
        return DampenedTraceState(zero_scalar(params), first_moment(params, accumulator_dtype))

    def update(
        updates: Updates, state: DampenedTraceState, params: Params | None = None
    ) -> tuple[Updates, DampenedTraceState]:
        u, new_trace = leafwise(
            rule, (updates, state.trace), dampening_scalars,
            count=state.count, decay=decay, dampening=dampening,
        )  # fmt: skip
        return u, DampenedTraceState(increment(state.count), new_trace)

    return init, update
