"""Checks the arguments of a comparison."""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._candidates._candidates import Candidate, candidates
from gradflow.lab._results._comparison import Comparison, Entry
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._own_task import NO_DATA, OwnData
from gradflow.lab._tasks._task import Task

_EVALUATIONS = 100  # approximate number of evaluations of the training loss


class Plan(NamedTuple):
    """A comparison that has been checked and is ready to run."""

    task: Task
    candidates: list[Candidate]
    seeds: tuple[int, ...]
    steps: int
    target: float | None
    extends: bool  # whether a grid is extended where its best rate is at its end

    @property
    def evaluated_at(self) -> list[int]:
        """The steps after which the training loss is evaluated."""
        return evaluations(self.steps)

    def settings(self, first_losses: Any) -> dict[str, Any]:
        """What all entries share, for the file of the comparison."""
        return {
            "task": self.task.name,
            "steps": self.steps,
            "seeds": list(self.seeds),
            "target": self.target,
            "score_name": self.score_name,
            "extends": self.extends,
            "first_losses": np.asarray(first_losses, float).tolist(),
        }

    @property
    def score_name(self) -> str | None:
        """The name of the task's score, if it has one."""
        return self.task.score_name if self.task.score_fn is not None else None

    def result(self, entries: Iterable[Entry]) -> Comparison:
        """Ranks the entries, and adds the settings that they share."""
        return Comparison(
            task=self.task.name,
            target=self.target,
            steps=self.steps,
            evaluated_at=self.evaluated_at,
            seeds=list(self.seeds),
            score_name=self.score_name,
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
    own: OwnData = NO_DATA,
) -> Plan:
    """Checks `compare`'s arguments; raises ValueError or TypeError for a wrong one."""
    found = candidates(optimizers, learning_rates)
    if steps is not None:
        check_whole_number("compare", "steps", steps, 1)
    if target is not None and not np.isfinite(target):
        raise ValueError(f"compare: argument 'target' must be a finite number; got {target!r}")
    chosen = choose_task(task, loss_fn, params, batches, steps, "compare", own)
    steps = operator.index(steps or chosen.steps)
    target = chosen.target if target is None else float(target)
    return Plan(chosen, found, check_seeds("compare", seeds), steps, target, learning_rates is None)


def check_whole_number(caller: str, name: str, value: Any, low: int) -> None:
    """Raises ValueError unless an argument is a whole number >= `low`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise ValueError(f"{caller}: argument '{name}' must be a whole number >= {low}; got {value!r}")


def evaluations(steps: int) -> list[int]:
    """The steps after which the training loss is evaluated, including the last."""
    return [*range(0, steps, -(-steps // _EVALUATIONS)), steps]


_MOST_SEEDS = 2**20  # each has its initial parameters and its order of batches in memory


def check_seeds(caller: str, seeds: int | Iterable[int]) -> tuple[int, ...]:
    """Returns the seeds, 0, 1, ... for a number of them; raises ValueError for none, or for duplicates."""
    if isinstance(seeds, int | np.integer):
        if isinstance(seeds, bool) or seeds < 1:
            raise ValueError(f"{caller}: argument 'seeds' must be at least one seed; got {seeds!r}")
        if seeds > _MOST_SEEDS:
            raise ValueError(f"{caller}: argument 'seeds' must be at most {_MOST_SEEDS} seeds; got {seeds}")
        return tuple(range(int(seeds)))
    found = tuple(map(operator.index, seeds))
    if not found or len(set(found)) < len(found) or not all(0 <= seed < 2**32 for seed in found):
        raise ValueError(
            f"{caller}: argument 'seeds' must be different whole numbers in [0, 2**32), at least one; "
            f"got {list(found)}"
        )
    return found
