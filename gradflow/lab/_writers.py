"""Where metrics go while a model trains: a CSV file, or TensorBoard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import numpy as np

from gradflow.lab._optional import optional


class MetricsWriter(Protocol):
    """Takes the metrics of a step: `write(step, gradflow.metrics(state))`."""

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalars by name."""

    def close(self) -> None:
        """Finishes the file."""


class _Closing:
    """Closes at the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


class CsvWriter(_Closing):
    """One row a step, one column a metric, the names in the first row.

        with CsvWriter("run.csv") as log:
            log.write(step, gradflow.metrics(state))

    A file that is there is continued, so an interrupted run keeps what it has. Every row is on disk when
    `write` returns. Raises ValueError for names that differ from the first row's.
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
        values = _floats(metrics)
        if self._names is None:
            self._names = list(values)
            self._rows.writerow(["step", *self._names])
        if set(values) != set(self._names):
            odd = sorted(set(values) ^ set(self._names))
            raise ValueError(
                f"CsvWriter: {self._path} has other columns than these metrics; they differ in "
                f"{', '.join(odd[:5])}. A changed optimizer needs a file of its own"
            )
        self._rows.writerow([int(step), *(repr(values[name]) for name in self._names)])
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter(_Closing):
    """Scalars in TensorBoard's event files, a metric `adamw.b1` under the tag `adamw/b1`.

    Needs tensorboardX: `pip install "gradflow-jax[tensorboard]"`.
    """

    def __init__(self, directory: str | Path) -> None:
        self._writer = optional("tensorboardX", "TensorBoardWriter").SummaryWriter(str(directory))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the scalars of a step; those that are NaN, as of a stage that was not run, are left out."""
        for name, value in _floats(metrics).items():
            if not np.isnan(value):
                self._writer.add_scalar(name.replace(".", "/"), value, int(step))

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in jax.device_get(dict(metrics)).items():
        if np.shape(value) != ():
            raise ValueError(f"a writer takes scalars; '{name}' has shape {np.shape(value)}")
        found[str(name)] = float(value)
    return found
