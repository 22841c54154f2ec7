"""Stages whose arguments follow schedules."""

import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import refuse_state
from gradflow._calls._context import stage_name
from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow._expressions._arguments import only_number
from gradflow._expressions._factory import Factory
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Schedule, ScheduledState, Updates

_TRACED = (
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
)


def value_at(schedule: Schedule, step: Any, name: str) -> Any:
    """The value of the schedule of the argument `name` at a step.

    Raises TypeError for a schedule that branches in Python on a traced step or does not return a number,
    ValueError for one that returns more than one number.
    """
    what = f"{stage_name()}: the schedule of argument '{name}' must"
    try:
        value = schedule(step)
    except _TRACED:
        raise TypeError(
            f"{what} compute with jax.numpy; got a Python `if` or conversion of the step count, which is "
            "traced under jit. Use jax.numpy.where(count < n, a, b) or gradflow.join_schedules."
        ) from None
    shape, dtype = getattr(value, "shape", ()), getattr(value, "dtype", None)
    is_real = isinstance(value, int | float) if dtype is None else jnp.issubdtype(dtype, np.number)
    if not is_real or (dtype is not None and is_complex(dtype)):
        raise TypeError(f"{what} return a number; got {describe(value)}.")
    if np.prod(shape) != 1:
        raise ValueError(f"{what} return one number; got {describe(value)}.")
    return only_number(value)


def follow_schedules(
    factory: Factory, arguments: Mapping[str, Any], schedules: Mapping[str, Schedule]
) -> Pair:
    """A stage whose arguments are the values of its schedules at its own step count.

    The step is read from the state's step count. A state without one is stored with a counter.
    """
    once = {name for name in schedules if factory.checked[name].kind.at_init}
    _, update = factory.call_body(arguments)

    def step_of(state: OptState) -> Any:
        field = "count" if isinstance(state, ScheduledState) else factory.steps
        return getattr(state, field) if field in getattr(state, "_fields", ()) else None  # type: ignore[arg-type]

    def follow_init(params: Params) -> OptState:
        first = {name: value_at(schedule, zero_scalar(params), name) for name, schedule in schedules.items()}
        init, _ = factory.call_body({**arguments, **first})
        state = init(params)
        if step_of(state) is not None or once == set(schedules):
            return state
        return ScheduledState(zero_scalar(params), state)

    @functools.wraps(update)
    def follow_update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        step = step_of(state)
        if step is None:
            if once != set(schedules):
                refuse_state("a state with a step count", state)
            return cast(tuple[Updates, OptState], update(updates, state, params, **extra))
        values = {name: value_at(schedule, step, name) for name, schedule in schedules.items()}
        _, now = factory.call_body({**arguments, **values})
        if not isinstance(state, ScheduledState):
            return cast(tuple[Updates, OptState], now(updates, state, params, **extra))
        updates, inner = now(updates, state.inner_state, params, **extra)
        return updates, ScheduledState(increment(state.count), inner)

    return follow_init, follow_update
