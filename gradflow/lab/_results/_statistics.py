"""What the seeds say of chance: bootstrap intervals of medians, and whether an order is settled.

Medians over seeds drawn again and again with replacement (Efron 1979); the same draws for everybody, since
everybody has the same starts and batches. A run that never got there counts as infinity.
"""

import functools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

_DRAWS = 4000
_LEVEL = 0.95
FEWEST = 3  # seeds; of fewer there is nothing to draw


@functools.lru_cache(maxsize=8)
def _draws(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(count, size=(_DRAWS, count))


def _medians(values: Sequence[float]) -> np.ndarray:
    drawn = np.sort(np.asarray(values, float)[_draws(len(values))], axis=1)
    low, high = (len(values) - 1) // 2, len(values) // 2
    return (drawn[:, low] + drawn[:, high]) / 2


def _ends(values: np.ndarray) -> tuple[float, float]:
    # Order statistics, not means of two of them: some values may be infinite.
    ends = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], method="nearest")
    return float(ends[0]), float(ends[1])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the median over seeds; None for fewer than three."""
    return None if len(values) < FEWEST else _ends(_medians(values))


def is_settled(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the lower median of `first` is more than chance: zero is outside the difference's interval."""
    if len(first) < FEWEST:
        return False
    a, b = _medians(first), _medians(second)
    difference = np.where(a == b, 0.0, np.subtract(a, b, where=a != b, out=np.zeros_like(a)))
    return _ends(difference)[1] < 0


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values, some infinite, the mean of the middle two."""
    return statistics.median(map(float, values))


def quantile(runs: Any, which: float, axis: int = 0) -> np.ndarray:
    """Over seeds, a loss that is no number being the worst of all."""
    worst = np.where(np.isfinite(runs), runs, np.inf)
    found: np.ndarray = np.quantile(worst, which, axis=axis, method="nearest")
    return found
