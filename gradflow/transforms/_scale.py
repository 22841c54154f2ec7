"""Multiplying updates by a number: fixed, scheduled, or the learning rate."""

from typing import Any, NamedTuple

import jax

from gradflow._calls._reports import report
from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Finite, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._state import increment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import EmptyState, OptState, Pair, Params, Updates


class ScaleByScheduleState(NamedTuple):
    """Steps taken."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


@traced_once
def scale_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = factor * g."""
    return s.factor * g


@transformation(packable=True)
def scale(step_size: Finite) -> Pair:
    """Multiplies updates by a number: `u = step_size * g`. A negative one descends.

    >>> import gradflow as gf
    >>> tx = gf.scale(-0.5)
    >>> updates, state = tx.update(3.0, tx.init(0.0))
    >>> float(updates)
    -1.5
    """

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return leafwise(scale_rule, (updates,), factor=step_size)[0], state

    return init_empty_state, update


@transformation(reports=("learning_rate",), elementwise=True)
def scale_by_learning_rate(learning_rate: Rate, *, flip_sign: bool = True) -> Pair:
    """Multiplies updates by minus the learning rate: `u = -learning_rate * g`.

    Args:
      learning_rate: a number >= 0 or a schedule, evaluated at the count of steps taken, from 0.
      flip_sign: False leaves out the minus sign.

    The state is the step count, for a number as for a schedule. For a number `EmptyState()` is taken, too, as
    in Optax, and handed back.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_adam(), gf.scale_by_learning_rate(1e-3)))
    chain(scale_by_adam(), scale_by_learning_rate(0.001))
    """

    def init(params: Params) -> OptState:
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState | EmptyState, params: Params | None = None
    ) -> tuple[Updates, ScaleByScheduleState | EmptyState]:
        report("learning_rate", learning_rate)
        rate: Any = learning_rate
        (u,) = leafwise(scale_rule, (updates,), factor=-rate if flip_sign else rate)
        if isinstance(state, EmptyState):
            return u, state
        return u, ScaleByScheduleState(increment(state.count))

    return init, update


@transformation(packable=True)
def scale_by_schedule(step_size_fn: Finite) -> Pair:
    """Multiplies updates by a schedule's value at the count of steps taken: `u = f(count) * g`.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adam(1e-3), gf.scale_by_schedule(gf.linear_schedule(1.0, 0.0, 100))))
    chain(adam(0.001), scale_by_schedule(linear_schedule(1.0, 0.0, 100)))
    """

    def init(params: Params) -> OptState:
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params | None = None
    ) -> tuple[Updates, ScaleByScheduleState]:
        (u,) = leafwise(scale_rule, (updates,), factor=step_size_fn)
        return u, ScaleByScheduleState(increment(state.count))

    return init, update
