"""Keeps the trials that a sweep has finished, in memory and in a file."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gradflow._expressions._printing import shorten
from gradflow.lab._results._result import plain
from gradflow.lab._results._sweep import FORMAT, SweepResult, Trial, read_file


class TrialLog:
    """Finished trials by index. With a file, each is written at once, and an existing file is read first."""

    def __init__(self, path: str | os.PathLike[str] | None, header: dict[str, Any]) -> None:
        self.header = {"format": FORMAT, **header}
        self.trials: dict[int, Trial] = {}
        self.path = None if path is None else Path(path)
        self._is_new = True
        if self.path is not None and self.path.exists() and self.path.stat().st_size:
            found, self.trials = read_file(self.path)
            self._check(found or {})
            self._is_new = False

    def _check(self, found: dict[str, Any]) -> None:
        """Raises ValueError if the file belongs to another sweep."""
        wanted = json.loads(json.dumps(plain(self.header)))
        for name, value in wanted.items():
            old = found.get(name)
            if name == "first_losses":
                a, b = (np.asarray(v, float) for v in (value, old))  # machines round differently
                same = a.shape == b.shape and np.allclose(a, b, rtol=1e-3, equal_nan=True)
            else:
                same = value == old
            if not same:
                theirs, ours = _difference(old, value)
                raise ValueError(
                    f"sweep: argument 'file' must be new or of the same sweep; got {self.path}, "
                    f"which holds another sweep: its {name.replace('_', ' ')} is {theirs}, here it is "
                    f"{ours}. Choose another file, or remove this one"
                )

    def add(self, trial: Trial) -> None:
        """Adds a trial, and writes it to the file."""
        self.trials[trial.index] = trial
        if self.path is None:
            return
        self._begin()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(dataclasses.asdict(trial)))

    def _begin(self) -> None:
        """Prepares the file for another line, after one that may be incomplete."""
        if self.path is None:
            return
        if self._is_new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(_line(self.header), encoding="utf-8")
            self._is_new = False
            return
        with self.path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")

    def result(self) -> SweepResult:
        """The result so far."""
        return SweepResult.of(self.header, self.trials)


def _line(data: dict[str, Any]) -> str:
    return json.dumps(plain(data), allow_nan=False) + "\n"


def _difference(old: Any, new: Any) -> tuple[str, str]:
    """Two values for an error message; of two dicts the items that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return _difference(
            [[k, v] for k, v in old.items() if [k, v] not in [[*pair] for pair in new.items()]],
            [[k, v] for k, v in new.items() if [k, v] not in [[*pair] for pair in old.items()]],
        )
    return shorten(json.dumps(old), 80), shorten(json.dumps(new), 80)
