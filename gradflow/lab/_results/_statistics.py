"""Statistics over seeds: bootstrap intervals of medians, and whether an order is settled.

Medians are taken over seeds drawn with replacement (Efron 1979). All optimizers use the same draws, since
they share starts and batches. A run that never reached the target counts as infinity.
"""

import functools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

_DRAWS = 4000
_LEVEL = 0.95
FEWEST = 3  # seeds; with fewer an interval means nothing


@functools.lru_cache(maxsize=8)
def _draws(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(count, size=(_DRAWS, count))


def _medians(values: Sequence[float]) -> np.ndarray:
    drawn = np.sort(np.asarray(values, float)[_draws(len(values))], axis=1)
    low, high = (len(values) - 1) // 2, len(values) // 2
    return (drawn[:, low] + drawn[:, high]) / 2


def _ends(values: np.ndarray) -> tuple[float, float]:
    # Order statistics, not interpolated, since some values may be infinite.
    ends = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], method="nearest")
    return float(ends[0]), float(ends[1])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the median over seeds; None for fewer than three."""
    return None if len(values) < FEWEST else _ends(_medians(values))


def is_settled(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the median of `first` is significantly lower: the difference's interval is below zero."""
    if len(first) < FEWEST:
        return False
    a, b = _medians(first), _medians(second)
    difference = np.subtract(a, b, where=a != b, out=np.zeros_like(a))  # also of two infinities
    return _ends(difference)[1] < 0


def median(values: Sequence[float]) -> float:
    """The median as a float; for an even number of values the mean of the middle two."""
    return statistics.median(map(float, values))


def quantile(runs: Any, which: float, axis: int = 0) -> np.ndarray:
    """A quantile over seeds, in which a loss that is not finite counts as the worst."""
    worst = np.where(np.isfinite(runs), runs, np.inf)
    found: np.ndarray = np.quantile(worst, which, axis=axis, method="nearest")
    return found
