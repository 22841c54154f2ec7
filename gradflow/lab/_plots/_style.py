"""The style of all pictures: colors for the color-blind, dashes and markers for black and white."""

import math
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._optional import optional

# Okabe & Ito 2008, without yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvP*X<>hp"


def style(i: int) -> dict[str, Any]:
    """The style of line `i`: 7 colors, 5 dashes and 12 markers repeat together only after 420 lines."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no display."""
    return optional("matplotlib.figure", "the picture").Figure(figsize=(width, height), layout="constrained")


def sparse(i: int, count: int, markers: int = 8) -> tuple[int, int]:
    """`markevery` for line `i` of `count` points: a few markers, shifted between neighboring lines."""
    every = max(1, count // markers)
    return i % every, every


def grid(axis: Any) -> None:
    """Draws the grid lines of a picture."""
    axis.grid(alpha=0.25, which="major")
    axis.spines[["top", "right"]].set_visible(False)


class Limits(NamedTuple):
    """The range of losses that is drawn, on a logarithmic axis if none is negative."""

    low: float
    top: float
    log: bool

    @classmethod
    def of(cls, starts: np.ndarray, drawn: np.ndarray) -> "Limits":
        """From the lowest drawn value, at most seven decades down, to just above the starts."""
        finite = starts[np.isfinite(starts)]
        start = float(finite.max()) if finite.size else 1.0
        top = start + 0.5 * abs(start)
        shown = drawn[np.isfinite(drawn)]
        low = float(shown.min()) if shown.size else 0.1 * top
        if low >= 0 and top > 0:
            return cls(max(low, 1e-7 * top), top, log=True)
        return cls(low, top if top > low else low + 1, log=False)

    def apply(self, axis: Any) -> None:
        """Scales the vertical axis of a picture."""
        low, top, log = self
        if log:
            axis.set_yscale("log")
            axis.set_ylim(low * (low / top) ** 0.03, top * (top / low) ** 0.03)
        else:
            axis.set_ylim(low - 0.03 * (top - low), top + 0.03 * (top - low))

    def drawable(self, values: Any) -> np.ndarray:
        """Clips values for drawing: a line leaves the picture at the top, and stays at its bottom."""
        above = 1e3 * self.top if self.log else 3 * self.top - 2 * self.low
        return np.clip(np.where(np.isfinite(values), values, np.inf), self.low, above)

    def inside(self, value: float) -> float:
        """Clips a value to the picture; one that is not finite goes to the top."""
        return min(max(value, self.low), self.top) if math.isfinite(value) else self.top
