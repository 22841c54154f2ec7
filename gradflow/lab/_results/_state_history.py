"""The result of `state_plot`."""

import dataclasses
from typing import ClassVar

import numpy as np

from gradflow.lab._results._result import Result


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of the numbers of a tree by log10 of their absolute value; zeros are counted apart."""

    edges: list[float]
    counts: list[int]
    zeros: int
    not_finite: int


@dataclasses.dataclass(frozen=True, repr=False)
class StateHistory(Result):
    """Scalars by name and step, ratios of norms, and histograms at the end of the training run."""

    file_name: ClassVar[str] = "state"

    title: str
    series: dict[str, list[float]]
    ratios: dict[str, list[float]]
    histograms: dict[str, Histogram]

    def __str__(self) -> str:
        lines = [self.title]
        for name, values in {**self.series, **self.ratios}.items():
            finite = [value for value in values if np.isfinite(value)]
            ends = (
                f"last {values[-1]:.3g}, between {min(finite):.3g} and {max(finite):.3g}"
                if finite
                else "none"
            )
            lines.append(f"  {name}: {ends}")
        return "\n".join(lines)

    __repr__ = __str__
