"""Calls of every schedule in the room, made from its signature: a new schedule needs no new test."""

import inspect
from typing import Any, NamedTuple

from gradflow import schedules
from gradflow._expressions._factory import Factory

FACTORIES: dict[str, Factory] = {
    name: value.__gradflow__ for name, value in vars(schedules).items() if hasattr(value, "__gradflow__")
}

# Values for arguments, by name.
ARGUMENTS: dict[str, Any] = {
    "value": 0.3,
    "init_value": 0.05,
    "peak_value": 0.2,
    "end_value": 0.01,
    "transition_steps": 12,
    "transition_begin": 3,
    "warmup_steps": 4,
    "stable_steps": 6,
    "decay": "sqrt",
    "decay_steps": 20,
    "decay_rate": 0.8,
    "power": 2.5,
    "alpha": 0.1,
    "exponent": 1.5,
    "pct_start": 0.25,
    "pct_final": 0.75,
    "div_factor": 10.0,
    "final_div_factor": 100.0,
    "interpolate_type": "cosine",
    "boundaries_and_scales": {5: 0.5, 11: 0.25},
    "schedules": [schedules.linear_schedule(0.1, 1.0, 7), schedules.constant_schedule(0.5)],
    "boundaries": [7],
    "cosine_kwargs": [
        {"init_value": 0.0, "peak_value": 0.2, "warmup_steps": 2, "decay_steps": 8},
        {"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": 12, "endpoint": True},
    ],
}


class Example(NamedTuple):
    """One call of a schedule's factory."""

    factory: Factory
    arguments: dict[str, Any]

    def make(self, **changes: Any) -> Any:
        return self.factory.function(**{**self.arguments, **changes})

    @property
    def name(self) -> str:
        return self.factory.name

    @property
    def numbers(self) -> list[str]:
        """The arguments given that may be traced."""
        return [name for name in self.factory.hyperparameters if name in self.arguments]


def examples() -> dict[str, Example]:
    """Two calls of each factory: with the required arguments alone, and with all of them, flags turned."""
    found = {}
    for name, factory in FACTORIES.items():
        parameters = factory.parameters.values()
        required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
        found[name] = Example(factory, {p: ARGUMENTS[p] for p in required})
        everything = {
            p.name: not p.default if isinstance(p.default, bool) else ARGUMENTS[p.name] for p in parameters
        }
        if len(everything) > len(required):
            found[f"{name}-all"] = Example(factory, everything)
    return found
