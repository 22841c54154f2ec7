"""The result of `check`."""

import dataclasses
from typing import NamedTuple

from gradflow._tables import preformatted, table


class Finding(NamedTuple):
    """A likely mistake: its stage, the problem, and a hint how to fix it."""

    stage: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.problem}. {self.cure}"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The findings of `check`, possibly none."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        if self.ok:
            return "check: nothing found"
        lines = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        return "\n".join([f"check: {len(lines)} finding{'s' if len(lines) > 1 else ''}", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.ok:
            return preformatted(str(self))
        return table(("stage", "problem", "cure"), self.findings, (0, 1, 2))
