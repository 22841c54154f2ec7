"""The result of `rate_finder`."""

import dataclasses
from typing import ClassVar

from gradflow.lab._results._result import Result


@dataclasses.dataclass(frozen=True, repr=False)
class RateCurve(Result):
    """The loss of the batch and the learning rate at each step, and the suggested rate."""

    file_name: ClassVar[str] = "rate_finder"

    task: str
    optimizer: str
    learning_rates: list[float]
    losses: list[list[float]]  # [seed][step]
    smoothed: list[float]  # an average of the median over seeds
    steepest: float | None  # where the smoothed loss falls fastest
    lowest: float | None  # where it is least
    suggestion: float | None  # None where it never falls

    def __str__(self) -> str:
        if self.suggestion is None:
            return f"{self.task}, {self.optimizer}: the loss never fell; try other ends, low and high"
        return (
            f"{self.task}, {self.optimizer}: try a learning rate of {self.suggestion:.2g} "
            f"(steepest at {self.steepest:.2g}, lowest at {self.lowest:.2g})"
        )

    __repr__ = __str__
