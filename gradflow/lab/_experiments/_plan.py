"""A comparison's arguments, checked."""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._candidates._candidates import Contender, contenders
from gradflow.lab._results._comparison import Comparison, Entry
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._task import Task

_EVALUATIONS = 100  # times that the training loss is looked at, about


class Plan(NamedTuple):
    """A comparison that has been checked and is ready to run."""

    task: Task
    contenders: list[Contender]
    seeds: tuple[int, ...]
    steps: int
    target: float | None

    @property
    def evaluated_at(self) -> list[int]:
        """The steps after which the training loss is looked at."""
        return evaluations(self.steps)

    def result(self, entries: Iterable[Entry]) -> Comparison:
        """The entries, ranked, with what they have in common."""
        return Comparison(
            task=self.task.name,
            target=self.target,
            steps=self.steps,
            evaluated_at=self.evaluated_at,
            seeds=list(self.seeds),
            score_name=self.task.score_name if self.task.score_fn is not None else None,
            entries=sorted(entries, key=operator.attrgetter("rank_key")),
        )


def prepare(
    optimizers: Any = None,
    task: str | Task | None = None,
    loss_fn: Any = None,
    params: Any = None,
    batches: Any = None,
    learning_rates: Iterable[float] | None = None,
    seeds: int | Iterable[int] = 5,
    steps: int | None = None,
    target: float | None = None,
) -> Plan:
    """Checks `compare`'s arguments; raises ValueError or TypeError for a wrong one."""
    found = contenders(optimizers, learning_rates)
    if steps is not None:
        whole_number("steps", steps, 1)
    if target is not None and not np.isfinite(target):
        raise ValueError(f"the target loss must be a finite number; got {target!r}")
    chosen = choose_task(task, loss_fn, params, batches, steps, "compare")
    steps = operator.index(steps or chosen.steps)
    target = chosen.target if target is None else float(target)
    return Plan(chosen, found, check_seeds(seeds), steps, target)


def whole_number(name: str, value: Any, low: int) -> None:
    """Raises ValueError for what is no whole number, or one below `low`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise ValueError(f"{name} must be a whole number >= {low}; got {value!r}")


def evaluations(steps: int) -> list[int]:
    """The steps after which the training loss is looked at, the last one among them."""
    return [*range(0, steps, -(-steps // _EVALUATIONS)), steps]


def check_seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """The seeds: 0, 1, ... for a number of them; raises ValueError for none, or one twice."""
    if isinstance(seeds, int):
        if isinstance(seeds, bool) or seeds < 1:
            raise ValueError(f"there must be at least one seed; got {seeds!r}")
        return tuple(range(seeds))
    found = tuple(map(operator.index, seeds))
    if not found or len(set(found)) < len(found) or not all(0 <= seed < 2**32 for seed in found):
        raise ValueError(
            f"seeds must be different whole numbers in [0, 2**32), at least one; got {list(found)}"
        )
    return found
