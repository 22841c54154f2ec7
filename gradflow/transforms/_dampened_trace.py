"""Momentum with dampened gradients, as in PyTorch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import in_range, kept_in_range
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates


class DampenedTraceState(NamedTuple):
    """Steps taken, and the decaying sum of gradients."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    trace: Mean


def dampening_scalars(count: jax.Array, dampening: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the new gradient, which is 1 at the first step, at `count` 0."""
    return {"gain": jnp.where(count == 0, jnp.ones_like(dampening), 1 - dampening)}


@traced_once
def dampened_trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The heavy ball, with a fraction of each new gradient."""
    trace = kept_in_range(s.decay * trace + s.gain * g, g)
    return trace, trace


@traced_once
def nesterov_dampened_trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """`dampened_trace_rule` with the momentum of the next step and the undamped gradient."""
    trace = kept_in_range(s.decay * trace + s.gain * g, g)
    return in_range(s.decay * trace + g), trace


@transformation(packable=True)
def dampened_trace(
    decay: Fraction, dampening: Fraction = 0.0, nesterov: bool = False, accumulator_dtype: Any = None
) -> Pair:
    """`trace` as in PyTorch's SGD, which dampens every gradient but the first.

        trace = g                                          at the first step
        trace = decay * trace + (1 - dampening) * g        at the others
        u = trace                with nesterov:  u = decay * trace + g

    Args:
      decay: of the sum, in [0, 1].
      dampening: the share of a new gradient that is left out, in [0, 1]; 0 gives the updates of `trace`.
      nesterov: uses the momentum of the next step. PyTorch allows it with dampening 0 only.
      accumulator_dtype: dtype of the sum; the parameters' by default.

    The rule depends on the step count, so its state differs from that of `trace`.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.dampened_trace(0.9, 0.1), gf.scale_by_learning_rate(0.1)))
    chain(dampened_trace(0.9, dampening=0.1), scale_by_learning_rate(0.1))
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
