"""`schedule_plot`: schedules, step by step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import jax.numpy as jnp
import numpy as np

from gradflow._address import addresses
from gradflow._expression import expression_of
from gradflow.lab._brief import brief, short
from gradflow.lab._data import Result
from gradflow.lab._parse import parse
from gradflow.lab._plan import whole_number
from gradflow.lab._style import grid, new_figure, sparse, style

_DEFAULT = 1000  # steps, where the schedules do not say how long they are


@dataclasses.dataclass(frozen=True, repr=False)
class ScheduleCurves(Result):
    """The value of each schedule at each step, by name."""

    file_name: ClassVar[str] = "schedules"

    steps: int
    curves: dict[str, list[float]]

    def __str__(self) -> str:
        lines = [f"{self.steps} steps"]
        for name, values in self.curves.items():
            ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
            lines.append(f"{name}: {ends}, between {min(values):.3g} and {max(values):.3g}")
        return "\n".join(lines)

    __repr__ = __str__

    def _draw(self) -> Any:
        figure = new_figure(8.5, 4.4 + 0.2 * len(self.curves))
        axis = figure.subplots()
        for i, (name, values) in enumerate(self.curves.items()):
            axis.plot(values, label=short(name), markevery=sparse(i, len(values), 6), **style(i))
        axis.set(xlabel="step", ylabel="value", title="schedules" if len(self.curves) > 1 else "")
        figure.legend(loc="outside lower center", fontsize=9, handlelength=4.5, frameon=False)
        grid(axis)
        return figure


def schedule_plot(schedules: Any, steps: int | None = None) -> ScheduleCurves:
    """The values of schedules at steps 0, 1, ..., to be looked at with `.plot()`.

        schedule_plot(warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)).plot()

    Args:
      schedules: a schedule, any function of the step, a list or a dict of such, text that writes one, or a
        transformation, of which all schedules are shown.
      steps: how many; by default as long as the longest says that it is, and a tenth more.
    """
    found = _named(schedules)
    if not found:
        raise ValueError("schedule_plot: there is no schedule in it")
    if steps is None:
        lengths = [length for schedule in found.values() for length in _lengths(schedule)]
        steps = int(1.1 * max(lengths)) + 1 if lengths else _DEFAULT
    whole_number("steps", steps, 1)
    at = jnp.arange(steps, dtype=jnp.int32)
    return ScheduleCurves(steps, {name: _values(name, schedule, at) for name, schedule in found.items()})


def _values(name: str, schedule: Any, at: Any) -> list[float]:
    """The values at all steps, at once where the function can do it."""
    if expression_of(schedule) is not None:
        return cast(list[float], np.asarray(schedule(at), float).tolist())
    values = [float(schedule(int(step))) for step in at]
    return values


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
        raise TypeError(f"schedule_plot: {value!r} is no schedule: a function of the step is one")
    return {brief(value): value}


def _inside(tx: Any) -> dict[str, Callable[[Any], Any]]:
    """The schedules of a transformation by the addresses of the arguments that they drive."""
    parts = addresses(tx)
    found = {}
    for address, value in parts.items():
        stem, _, name = address.rpartition(".")
        expression = expression_of(parts.get(stem))
        if expression is None or expression.maker.kind != "transformation" or not callable(value):
            continue
        if name in getattr(expression.maker, "hyperparameters", ()):
            found[f"{address} = {brief(value)}"] = value
    return found


def _lengths(schedule: Any) -> list[int]:
    """The lengths and boundaries that a schedule's arguments tell."""
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
