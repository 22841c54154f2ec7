"""Keeps the trials that a sweep has finished, in memory and in a file."""

import dataclasses
import os
from typing import Any

from gradflow.lab._experiments._record_log import RecordLog
from gradflow.lab._results._record_file import SWEEP
from gradflow.lab._results._sweep import SweepResult, Trial, trials_of


class TrialLog:
    """Finished trials by index. With a file, each is written at once, and an existing file is read first."""

    def __init__(self, path: str | os.PathLike[str] | None, header: dict[str, Any]) -> None:
        self._log = RecordLog(path, header, SWEEP)
        self.trials: dict[int, Trial] = trials_of(self._log.found)

    def add(self, trial: Trial) -> None:
        """Adds a trial, and writes it to the file."""
        self.trials[trial.index] = trial
        self._log.add(dataclasses.asdict(trial))

    def result(self) -> SweepResult:
        """The result so far."""
        return SweepResult.of(self._log.header, self.trials)
