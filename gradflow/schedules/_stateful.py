"""Schedules with a state, or with more inputs than the step count."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from gradflow._checked import FUNCTION, checked
from gradflow._rules._state import increment


@runtime_checkable
class StatefulSchedule(Protocol):
    """`init() -> state`, `update(state, **extra) -> state`, and a call `(state, **extra) -> value`.

    `inject_hyperparams` accepts one in place of a number; `extra` are the extra arguments of its update.
    """

    def init(self) -> Any:
        """The state before the first step."""

    def update(self, state: Any, **extra_args: Any) -> Any:
        """The state for the next step."""

    def __call__(self, state: Any, **extra_args: Any) -> Any:
        """The value at this step."""


class WrappedScheduleState(NamedTuple):
    """Steps taken."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


class WrappedSchedule:
    """A schedule of the step count as a stateful schedule."""

    @checked(schedule_fn=FUNCTION)
    def __init__(self, schedule_fn: Callable[[Any], Any]) -> None:
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        """Step 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        """The state after one more step."""
        return WrappedScheduleState(increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        return self.schedule_fn(state.count)
