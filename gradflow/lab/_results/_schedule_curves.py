"""The result of `schedule_plot`."""

import dataclasses
from typing import ClassVar

from gradflow.lab._results._result import Result


@dataclasses.dataclass(frozen=True, repr=False)
class ScheduleCurves(Result):
    """The value of each schedule at each step, by name."""

    file_name: ClassVar[str] = "schedules"

    steps: int
    curves: dict[str, list[float]]

    def __str__(self) -> str:
        lines = [f"{self.steps} steps"]
        for name, values in self.curves.items():
            ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
            lines.append(f"{name}: {ends}, between {min(values):.3g} and {max(values):.3g}")
        return "\n".join(lines)

    __repr__ = __str__
