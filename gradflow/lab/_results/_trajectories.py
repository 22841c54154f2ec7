"""The result of `trajectory`."""

import dataclasses
import math
from typing import ClassVar

from gradflow.lab._results._result import TabulatedResult
from gradflow.lab._tasks._test_functions import LANDSCAPES


@dataclasses.dataclass(frozen=True)
class Path:
    """One optimizer's path: a point and the function's value there for each step, the start first."""

    name: str
    expression: str
    learning_rate: float | None  # the best of those tried; None for an optimizer that ran unchanged
    points: list[list[float]]
    values: list[float]
    diverged: bool
    as_for_vectors: bool = False  # a method for matrices, which treats a point as it treats biases


@dataclasses.dataclass(frozen=True, repr=False)
class Trajectories(TabulatedResult):
    """Paths on a function, and the function itself on a grid of points."""

    file_name: ClassVar[str] = "trajectory"

    function: str
    steps: int
    noise: float
    start: list[float]
    minima: list[list[float]]
    x: list[float]
    y: list[float]
    surface: list[list[float]]  # [y][x]
    paths: list[Path]

    def __getitem__(self, name: str) -> Path:
        for path in self.paths:
            if path.name == name:
                return path
        raise KeyError(name)

    @property
    def lowest(self) -> float:
        """The lowest known value: at the minima, or else on the paths."""
        if self.minima and self.function in LANDSCAPES:
            return LANDSCAPES[self.function].lowest
        return min((v for path in self.paths for v in path.values if math.isfinite(v)), default=0.0)
