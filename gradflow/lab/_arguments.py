"""Kinds of arguments that the functions of the lab share."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gradflow._checked import FUNCTION, PATH, Kind, Leaves, Number, is_number_or_array


def _is_row_of(value: Any, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return False
    if isinstance(value, tuple | list):
        return all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    # The items of a generator or of a range are read once, by the experiment.
    return not hasattr(value, "dtype") or is_number_or_array(value)


def _is_seeds(value: Any) -> bool:
    is_count = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if hasattr(value, "dtype") and not is_count:
        return is_number_or_array(value) and np.issubdtype(value.dtype, np.integer) and np.ndim(value) == 1
    return is_count or isinstance(value, range) or _is_row_of(value, (int, np.integer))


def _is_params(leaf: Any) -> bool:
    """Whether a leaf is an array, a number that jax can hold, or a function that makes parameters."""
    return (
        FUNCTION.fits(leaf)
        or (isinstance(leaf, int) and abs(leaf) < 2**31)
        or (not isinstance(leaf, int) and is_number_or_array(leaf))
    )


SEEDS = Kind("a whole number of seeds, or the seeds", _is_seeds)
RATES = Kind("a row of numbers", lambda value: _is_row_of(value, (int, float, np.number)))
SEED = Number(0, 2**63 - 1, whole=True, static=True)
COUNT = Number(1, whole=True, static=True)
NUMBER = Number(static=True)
FILE = PATH | None
LOSS = FUNCTION | None
# A function of a key makes the parameters of each seed.
PARAMS = Leaves("an array of numbers", _is_params)
