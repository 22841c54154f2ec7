"""How the lab's pictures look: colours for the colour-blind, dashes and markers for black and white."""

import math
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._optional import optional

# Okabe & Ito 2008, without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvP*X<>hp"


def style(i: int) -> dict[str, Any]:
    """The look of line `i`: 7 colours, 5 dashes and 12 markers repeat together only after 420 lines."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no display."""
    return optional("matplotlib.figure", "the picture").Figure(figsize=(width, height), layout="constrained")


def sparse(i: int, count: int, markers: int = 8) -> tuple[int, int]:
    """`markevery` for line `i` of `count` points: a few markers, those of neighbours apart."""
    every = max(1, count // markers)
    return i % every, every


def grid(axis: Any) -> None:
    """The lines behind a picture, as all pictures have them."""
    axis.grid(alpha=0.25, which="major")
    axis.spines[["top", "right"]].set_visible(False)


class Limits(NamedTuple):
    """The part of some losses that is drawn; on a logarithmic axis where none is negative."""

    low: float
    top: float
    log: bool

    @classmethod
    def of(cls, starts: np.ndarray, drawn: np.ndarray) -> "Limits":
        """From the least that is drawn, seven decades down at most, to just above the starts."""
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
        """Values within reach of the picture: a line leaves it at the top, and rests on its bottom."""
        above = 1e3 * self.top if self.log else 3 * self.top - 2 * self.low
        return np.clip(np.where(np.isfinite(values), values, np.inf), self.low, above)

    def inside(self, value: float) -> float:
        """A value moved to the nearest end of the picture; one that is no number to the top."""
        return min(max(value, self.low), self.top) if math.isfinite(value) else self.top
