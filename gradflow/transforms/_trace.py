"""Momentum as a decaying sum of gradients."""

from typing import Any, NamedTuple

import jax

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import in_range, kept_in_range
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates


class TraceState(NamedTuple):
    """The decaying sum of gradients."""

    trace: Mean


@traced_once
def trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Polyak 1964: the heavy ball."""
    trace = kept_in_range(s.decay * trace + g, g)
    return trace, trace


@traced_once
def nesterov_trace_rule(g: jax.Array, trace: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Sutskever et al. 2013: the sum of the next step, if its gradient were the same."""
    trace = kept_in_range(s.decay * trace + g, g)
    return in_range(s.decay * trace + g), trace


@transformation(packable=True)
def trace(decay: Fraction, nesterov: bool = False, accumulator_dtype: Any = None) -> Pair:
    """Sums gradients with exponentially decaying weights: momentum as in SGD.

        trace = decay * trace + g
        u = trace                with nesterov:  u = decay * trace + g

    Args:
      decay: of the sum, in [0, 1].
      nesterov: uses the momentum of the next step.
      accumulator_dtype: dtype of the sum; the parameters' by default.

    Unlike in `ema`, a new gradient has weight 1, so a constant one is multiplied by `1 / (1 - decay)`. A sum
    of finite gradients stays finite.
    `dampened_trace` has PyTorch's dampening. Source: Sutskever et al. 2013, "On the importance of
    initialization and momentum in deep learning".

    >>> import gradflow as gf
    >>> tx = gf.trace(0.9)
    >>> updates, state = tx.update(1.0, tx.init(0.0))
    >>> updates, state = tx.update(1.0, state)
    >>> round(float(updates), 3)
    1.9
    """
    rule = nesterov_trace_rule if nesterov else trace_rule

    def init(params: Params) -> OptState:
        return TraceState(first_moment(params, accumulator_dtype))

    def update(
        updates: Updates, state: TraceState, params: Params | None = None
    ) -> tuple[Updates, TraceState]:
        u, new_trace = leafwise(rule, (updates, state.trace), decay=decay)
        return u, TraceState(new_trace)

    return init, update
