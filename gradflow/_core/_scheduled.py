"""Stages whose arguments follow schedules."""

import functools
from collections.abc import Mapping
from typing import Any, cast

from gradflow._calls._checks import refuse_state
from gradflow._expressions._factory import Factory
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Schedule, ScheduledState, Updates


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
        first = {name: schedule(zero_scalar(params)) for name, schedule in schedules.items()}
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
        values = {name: schedule(step) for name, schedule in schedules.items()}
        _, now = factory.call_body({**arguments, **values})
        if not isinstance(state, ScheduledState):
            return cast(tuple[Updates, OptState], now(updates, state, params, **extra))
        updates, inner = now(updates, state.inner_state, params, **extra)
        return updates, ScheduledState(increment(state.count), inner)

    return follow_init, follow_update
