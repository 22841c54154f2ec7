"""A comparison's arguments, checked."""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._contenders import Contender, contenders
from gradflow.lab._result import Comparison, Entry
from gradflow.lab._tasks import Task, own_task, task_named

_EVALUATIONS = 100  # times that the training loss is looked at, about


class Plan(NamedTuple):
    """A comparison that has been checked and is ready to run."""

    task: Task
    contenders: list[Contender]
    seeds: tuple[int, ...]
    steps: int
    every: int
    target: float | None

    @property
    def evaluated_at(self) -> list[int]:
        """The steps after which the training loss is looked at."""
        return [*range(0, self.steps, self.every), self.steps]

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
    if steps is not None and (isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1):
        raise ValueError(f"steps must be a whole number >= 1; got {steps!r}")
    if target is not None and not np.isfinite(target):
        raise ValueError(f"the target loss must be a finite number; got {target!r}")
    if not (loss_fn is None and params is None and batches is None):
        if task is not None:
            raise TypeError("compare: give a task, or loss_fn, params and batches of your own; not both")
        chosen = own_task(loss_fn, params, batches, steps or 500)
    elif task is None or isinstance(task, str):
        chosen = task_named(task or "digits")
    elif isinstance(task, Task):
        chosen = task
    else:
        raise TypeError(f"compare: argument 'task' must be a name or a Task; got a {type(task).__name__}")
    steps = operator.index(steps or chosen.steps)
    target = chosen.target if target is None else float(target)
    return Plan(chosen, found, _check_seeds(seeds), steps, -(-steps // _EVALUATIONS), target)


def _check_seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
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
