"""Write metrics to a CSV file or to TensorBoard while a model trains."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import numpy as np

from gradflow.lab._optional import optional


class MetricsWriter(Protocol):
    """The interface of writers: `write(step, gradflow.metrics(state))` for each step."""

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalars by name."""

    def close(self) -> None:
        """Finishes the file."""


class _Closing:
    """Closes a writer at the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


class CsvWriter(_Closing):
    """Writes one row per step and one column per metric, with the names in the first row.

        with CsvWriter("run.csv") as log:
            log.write(step, gradflow.metrics(state))

    An existing file is continued, so an interrupted run keeps its rows. Every row is on disk when `write`
    returns. Raises ValueError for names that differ from the first row.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._names: list[str] | None = None
        if self._path.exists() and self._path.stat().st_size:
            with self._path.open(newline="") as file:
                self._names = next(csv.reader(file))[1:]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", newline="")
        self._rows = csv.writer(self._file)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends the row of a step."""
        values = _floats("CsvWriter", metrics)
        if self._names is None:
            self._names = list(values)
            self._rows.writerow(["step", *self._names])
        if set(values) != set(self._names):
            odd = sorted(set(values) ^ set(self._names))
            raise ValueError(
                f"CsvWriter: argument 'metrics' must have the columns of {self._path}; got a difference in "
                f"{', '.join(odd[:5])}. Use another file for another optimizer"
            )
        self._rows.writerow([int(step), *(repr(values[name]) for name in self._names)])
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter(_Closing):
    """Writes scalars to TensorBoard's event files, the metric `adamw.b1` under the tag `adamw/b1`.

    Needs tensorboardX: `pip install "gradflow-jax[tensorboard]"`.
    """

    def __init__(self, directory: str | Path) -> None:
        self._writer = optional("tensorboardX", "TensorBoardWriter").SummaryWriter(str(directory))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the scalars of a step, except those that are NaN, as for a stage that did not run."""
        for name, value in _floats("TensorBoardWriter", metrics).items():
            if not np.isnan(value):
                self._writer.add_scalar(name.replace(".", "/"), value, int(step))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def _floats(owner: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in jax.device_get(dict(metrics)).items():
        if np.shape(value) != ():
            raise ValueError(
                f"{owner}: argument 'metrics' must hold scalars; got '{name}' of shape {np.shape(value)}"
            )
        found[str(name)] = float(value)
    return found
