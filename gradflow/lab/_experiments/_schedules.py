"""`schedule_plot`: evaluates schedules at each step."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from gradflow._checked import checked
from gradflow._errors import describe
from gradflow._expressions._addresses import addresses
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import show
from gradflow.lab._arguments import COUNT
from gradflow.lab._candidates._parse import parse
from gradflow.lab._experiments._plan import check_whole_number
from gradflow.lab._results._schedule_curves import ScheduleCurves

_DEFAULT = 1000  # steps, if the arguments of the schedules contain no length


@checked(steps=COUNT | None)
def schedule_plot(schedules: Any, steps: int | None = None) -> ScheduleCurves:
    """Evaluates schedules at steps 0, 1, ...; the result has `.plot()`.

        schedule_plot(warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)).plot()

    Args:
      schedules: a schedule or any function of the step, a list or dict of these, an expression as text, or a
        transformation, of which all schedules are shown.
      steps: the number of steps; by default the longest length among the schedules' arguments, and 10 % more.
    """
    found = _named(schedules)
    if not found:
        raise ValueError(
            f"schedule_plot: argument 'schedules' must have at least one schedule; got {describe(schedules)}"
        )
    if steps is None:
        lengths = [length for schedule in found.values() for length in _lengths(schedule)]
        steps = int(1.1 * max(lengths)) + 1 if lengths else _DEFAULT
    check_whole_number("schedule_plot", "steps", steps, 1)
    at = jnp.arange(steps, dtype=jnp.int32)
    return ScheduleCurves(steps, {name: _values(name, schedule, at) for name, schedule in found.items()})


def _values(name: str, schedule: Any, at: Any) -> list[float]:
    """The values at all steps, in one call for gradflow's schedules."""
    if expression_of(schedule) is not None:
        return cast(list[float], np.asarray(schedule(at), float).tolist())
    return [_number(name, schedule(int(step))) for step in at]


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except TypeError:
        raise TypeError(
            "schedule_plot: argument 'schedules' must hold functions that return a number; "
            f"got {describe(value)} from {name}"
        ) from None


def _named(value: Any) -> dict[str, Callable[[Any], Any]]:
    if isinstance(value, str):
        value = parse(value)
    if isinstance(value, Mapping):
        return {
            f"{name}: {inner}" if len(some) > 1 else str(name): schedule
            for name, item in value.items()
            for some in [_named(item)]
            for inner, schedule in some.items()
        }
    expression = expression_of(value)
    if expression is not None and expression.maker.kind == "transformation":
        return _inside(value)
    if isinstance(value, list | tuple):
        found: dict[str, Any] = {}
        for item in value:
            for name, schedule in _named(item).items():
                found[name if name not in found else f"{name} ({len(found) + 1})"] = schedule
        return found
    if not callable(value):
        raise TypeError(
            f"schedule_plot: argument 'schedules' must hold functions of the step; got {describe(value)}"
        )
    return {show(value): value}


def _inside(tx: Any) -> dict[str, Callable[[Any], Any]]:
    """The schedules of a transformation, by the address of their argument."""
    parts = addresses(tx)
    found = {}
    for address, value in parts.items():
        stem, _, name = address.rpartition(".")
        expression = expression_of(parts.get(stem))
        if expression is None or expression.maker.kind != "transformation" or not callable(value):
            continue
        if name in getattr(expression.maker, "hyperparameters", ()):
            found[f"{address} = {show(value)}"] = value
    return found


def _lengths(schedule: Any) -> list[int]:
    """The lengths and boundaries among a schedule's arguments."""
    if expression_of(schedule) is None:
        return []
    found: list[int] = []
    for address, value in addresses(schedule).items():
        name = address.split(".")[-1]
        if name.endswith("steps") and isinstance(value, int):
            found.append(value)
        elif name.startswith("boundaries") and isinstance(value, tuple | dict):
            found += [step for step in value if isinstance(step, int)]
    return found
