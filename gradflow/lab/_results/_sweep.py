"""The result of `sweep`: plain data, and the file that holds it."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradflow.lab._results._record_file import SWEEP, read_records
from gradflow.lab._results._result import TabulatedResult, numbers, tabulate
from gradflow.lab._results._statistics import median


@dataclasses.dataclass(frozen=True)
class Trial:
    """The runs of one combination of values, one for each seed."""

    index: int
    values: dict[str, Any]
    steps: int  # taken; fewer than the sweep's after a halving or an interruption
    losses: list[list[float]]  # [seed][evaluation]: the training loss
    score: list[float] | None
    expression: str

    @property
    def diverged(self) -> list[bool]:
        """By seed: whether the loss became not finite, or ended above its first value."""
        return [
            not all(map(math.isfinite, run)) or (len(run) > 1 and not run[-1] <= run[0])
            for run in self.losses
        ]

    @property
    def final_loss(self) -> float:
        """The median over seeds of the last training loss; infinite where most seeds diverged."""
        return median(
            [math.inf if bad else run[-1] for run, bad in zip(self.losses, self.diverged, strict=True)]
        )

    @property
    def final_score(self) -> float | None:
        """The median over seeds of the score."""
        return (
            None if self.score is None else median([s if math.isfinite(s) else -math.inf for s in self.score])
        )

    def key(self, rank_by: str) -> tuple[float, float]:
        """The sort key of trials: those that diverged come last."""
        lost = math.isinf(self.final_loss)
        if rank_by == "score" and self.final_score is not None:
            return math.inf if lost else -self.final_score, self.final_loss
        return self.final_loss, sum(self.diverged)


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult(TabulatedResult):
    """The trials in order of rank, and the settings that they share."""

    file_name: ClassVar[str] = "sweep"

    task: str
    expression: str
    brief: str  # the expression without arguments at their defaults
    space: dict[str, Any]  # address -> list of values, or a Range as a dict
    method: str
    steps: int
    evaluated_at: list[int]
    seeds: list[int]
    rank_by: str
    score_name: str | None
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """The first in rank."""
        if not self.trials:
            raise ValueError("best: the sweep must have a finished trial; got none")
        return self.trials[0]

    @property
    def best_expression(self) -> str:
        """The transformation with the best values, as code."""
        return self.best.expression

    def table(self, top: int = 10, *, width: int | None = None) -> str:
        """The best trials as text; words wrap where lines would be longer than `width`."""
        return tabulate(self, top).text(width)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as dicts and lists."""
        data = dataclasses.asdict(self)
        for trial, written in zip(self.trials, data["trials"], strict=True):
            written |= {"final_loss": trial.final_loss, "diverged": trial.diverged}
        return data

    @classmethod
    def of(cls, header: Mapping[str, Any], trials: Mapping[int, Trial]) -> "SweepResult":
        """Makes the result, with the trials in order of rank."""
        names = {field.name for field in dataclasses.fields(cls)} - {"trials"}
        known = {name: header[name] for name in names}
        order = sorted(trials.values(), key=lambda t: (-t.steps, *t.key(header["rank_by"]), t.index))
        return cls(trials=order, **known)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SweepResult":
        """Loads the result from the `file` of a sweep, which may be unfinished."""
        header, records = read_records(Path(path), SWEEP)
        if header is None:
            raise ValueError(f"load: argument 'path' must be the file of a sweep; got {path}, which is empty")
        return cls.of(header, trials_of(records))


def trials_of(records: Iterable[dict[str, Any]]) -> dict[int, Trial]:
    """The trials of a sweep's file by index; of two lines of one trial that with more steps."""
    trials: dict[int, Trial] = {}
    for data in records:
        trial = Trial(**{**data, "losses": numbers(data["losses"]), "score": numbers(data["score"])})
        if trial.index not in trials or trials[trial.index].steps <= trial.steps:
            trials[trial.index] = trial
    return trials


def trial_of(
    index: int, values: dict[str, Any], steps: int, losses: np.ndarray, score: Any, expression: str
) -> Trial:
    """Makes a trial from arrays."""
    return Trial(
        index=index,
        values={
            name: value if isinstance(value, int | float | str | None) else repr(value)
            for name, value in values.items()
        },
        steps=steps,
        losses=np.asarray(losses, float).tolist(),
        score=None if score is None else np.asarray(score, float).tolist(),
        expression=expression,
    )
