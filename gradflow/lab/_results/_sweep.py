"""What a sweep found, as plain data."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradflow.lab._results._result import Result, tabulate
from gradflow.lab._results._statistics import median

_RANKS = ("loss", "score")


@dataclasses.dataclass(frozen=True)
class Trial:
    """The runs of one combination of values, one for each seed."""

    index: int
    values: dict[str, Any]
    steps: int  # that were taken; fewer than the sweep's where it was halved out or interrupted
    losses: list[list[float]]  # [seed][evaluation]: the training loss
    score: list[float] | None
    expression: str

    @property
    def diverged(self) -> list[bool]:
        """By seed: the loss became no number, or ended above the one it began with."""
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
        """What trials are ranked by: who has diverged comes last, then who was stopped early."""
        lost = math.isinf(self.final_loss)
        if rank_by == "score" and self.final_score is not None:
            return math.inf if lost else -self.final_score, self.final_loss
        return self.final_loss, sum(self.diverged)


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """The trials in order of rank, and what they have in common."""

    file_name: ClassVar[str] = "sweep"

    task: str
    expression: str
    brief: str  # the same without what is at its default
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
            raise ValueError("the sweep has no trial that was finished")
        return self.trials[0]

    @property
    def best_expression(self) -> str:
        """The transformation with the best values, as one would type it."""
        return self.best.expression

    def table(self, top: int = 10) -> str:
        """The best trials as text."""
        return tabulate(self, top)

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._page()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as dicts and lists."""
        data = dataclasses.asdict(self)
        for trial, written in zip(self.trials, data["trials"], strict=True):
            written |= {"final_loss": trial.final_loss, "diverged": trial.diverged}
        return data

    @classmethod
    def of(cls, header: Mapping[str, Any], trials: Mapping[int, Trial]) -> "SweepResult":
        """The result with the trials in order of rank."""
        names = {field.name for field in dataclasses.fields(cls)} - {"trials"}
        known = {name: header[name] for name in names}
        order = sorted(trials.values(), key=lambda t: (-t.steps, *t.key(header["rank_by"]), t.index))
        return cls(trials=order, **known)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SweepResult":
        """The result of what a sweep has written into its `file` so far."""
        header, trials = read_file(Path(path))
        if header is None:
            raise ValueError(f"{path} holds no sweep")
        return cls.of(header, trials)


def read_file(path: Path) -> tuple[dict[str, Any] | None, dict[int, Trial]]:
    """The first line of a sweep's file, and its trials; of two lines of one trial that with more steps.

    A last line that was cut off, as when the power fails, is left out.
    """
    header: dict[str, Any] | None = None
    trials: dict[int, Trial] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            if number == 0:
                raise ValueError(f"{path} is no file of a sweep") from None
            continue
        if number == 0:
            if not isinstance(data, dict) or data.get("format") != "gradflow sweep 1":
                raise ValueError(f"{path} is no file of a sweep")
            header = data
            continue
        data["losses"] = [[math.nan if v is None else v for v in run] for run in data["losses"]]
        if data["score"] is not None:
            data["score"] = [math.nan if v is None else v for v in data["score"]]
        trial = Trial(**data)
        if trial.index not in trials or trials[trial.index].steps <= trial.steps:
            trials[trial.index] = trial
    return header, trials


def trial_of(
    index: int, values: dict[str, Any], steps: int, losses: np.ndarray, score: Any, expression: str
) -> Trial:
    """A trial of arrays."""
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
