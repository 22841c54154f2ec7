"""The search space of a sweep: hyper-parameters at addresses of an expression, with values or ranges."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._addresses import addresses, replace
from gradflow._expressions._keys import expression_of
from gradflow.lab._arguments import NUMBER

_SCALES = ("log", "linear", "decay")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, for a sweep.

    - `scale`: "log", "linear", or "decay", in which 1 - x is logarithmic, for b1 and b2.
    - `points`: the number of points in a grid; random draws may be anywhere.
    """

    low: float
    high: float
    scale: str = "log"
    points: int = 6

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            NUMBER.check("Range", name, value)
        if self.scale not in _SCALES:
            raise ValueError(
                f"Range: argument 'scale' must be one of {', '.join(_SCALES)}; got {self.scale!r}"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"Range: argument 'low' must be below high, both finite; got {self.low!r} and {self.high!r}"
            )
        if self.scale == "log" and self.low <= 0:
            raise ValueError(
                f"Range: argument 'low' must be above 0 on a logarithmic scale; got {self.low!r}"
            )
        if self.scale == "decay" and self.high >= 1:
            raise ValueError(
                f"Range: argument 'high' must be below 1 on the scale of decays; got {self.high!r}"
            )
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 2:
            raise ValueError(f"Range: argument 'points' must be a whole number >= 2; got {self.points!r}")

    def at(self, fraction: float) -> float:
        """The number at a fraction of the way from `low` to `high`, to six digits."""
        if self.scale == "linear":
            return _rounded(self.low + fraction * (self.high - self.low))
        if self.scale == "log":
            return _rounded(self.low * (self.high / self.low) ** fraction)
        start, end = 1 - self.low, 1 - self.high
        return 1 - _rounded(start * (end / start) ** fraction)

    def grid(self) -> list[float]:
        """`points` numbers, evenly spaced on the scale, both ends among them."""
        inner = [self.at(i / (self.points - 1)) for i in range(1, self.points - 1)]
        return [float(self.low), *inner, float(self.high)]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


class Axis(NamedTuple):
    """One entry of a space: an address as the user wrote it, and its values.

    `traced` is True for numbers of a hyper-parameter, which all share one compiled program.
    """

    address: str
    values: tuple[Any, ...] | Range
    traced: bool

    def list(self) -> list[Any]:
        """The values of a grid."""
        return self.values.grid() if isinstance(self.values, Range) else list(self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """Returns a random value."""
        if isinstance(self.values, Range):
            return self.values.at(rng.uniform())
        return self.values[int(rng.integers(len(self.values)))]

    def write(self) -> Any:
        """The values as plain data."""
        if isinstance(self.values, Range):
            return dataclasses.asdict(self.values)
        return [
            value if isinstance(value, int | float | str | None) else repr(value) for value in self.values
        ]


Values = dict[str, Any]  # by address


class Space(NamedTuple):
    """An expression and the axes along which it varies."""

    tx: GradientTransformation
    axes: tuple[Axis, ...]

    def grid(self) -> list[Values]:
        """Every combination; the last axis varies fastest."""
        names = [axis.address for axis in self.axes]
        rows = itertools.product(*(axis.list() for axis in self.axes))
        return [dict(zip(names, row, strict=True)) for row in rows]

    def draws(self, count: int, seed: int) -> list[Values]:
        """Random combinations; a larger count begins with the draws of a smaller one."""
        rng = np.random.default_rng(seed)
        return [{axis.address: axis.draw(rng) for axis in self.axes} for _ in range(count)]

    @property
    def is_finite(self) -> bool:
        """Whether every axis is a list."""
        return not any(isinstance(axis.values, Range) for axis in self.axes)

    def split(self, values: Values) -> tuple[dict[str, float], Values]:
        """Splits the values into those that are traced and those that need a program of their own."""
        traced = {axis.address: float(values[axis.address]) for axis in self.axes if axis.traced}
        return traced, {name: value for name, value in values.items() if name not in traced}

    def at(self, values: Values) -> GradientTransformation:
        """The expression with these values."""
        return replace(self.tx, values)


def read_space(tx: GradientTransformation, space: Any) -> Space:
    """Reads the space of a sweep; raises ValueError or TypeError for a wrong address or wrong values."""
    if not isinstance(space, Mapping) or not space:
        raise TypeError(
            "sweep: argument 'space' must be a dict from addresses to lists or Range, such as "
            f'{{"learning_rate": Range(1e-4, 1e-1)}}; got {describe(space)}'
        )
    if expression_of(tx) is None:
        raise TypeError(
            "sweep: argument 'optimizer' must be a transformation made by factories, which has addresses; "
            f"got {describe(tx)}"
        )
    return Space(tx, tuple(_axis(tx, str(address), values) for address, values in space.items()))


def _axis(tx: GradientTransformation, address: str, values: Any) -> Axis:
    owner, name = _owner(tx, address)
    may_vary = owner is not None and name in owner.hyperparameters
    if isinstance(values, Range):
        if not may_vary:
            raise TypeError(
                f"sweep: argument 'space' must have a list for '{address}', which is not a number "
                "that may vary; got a Range"
            )
        return Axis(address, values, True)
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise TypeError(
            f"sweep: argument 'space' must have a list or a Range for '{address}'; got {describe(values)}"
        )
    if hasattr(values, "_fields"):
        raise TypeError(f"sweep: argument 'space' must have a list for '{address}'; got {describe(values)}")
    found = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    if not found:
        raise ValueError(f"sweep: argument 'space' must have at least one value for '{address}'; got none")
    return Axis(address, found, may_vary and all(map(is_number, found)))


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _owner(tx: GradientTransformation, address: str) -> tuple[Any, str]:
    """The factory and the argument's name at an address."""
    parts = addresses(tx)
    matches = [full for full in parts if full == address or full.endswith("." + address)]
    full = address if address in parts else matches[0] if len(matches) == 1 else None
    if full is None:
        replace(tx, {address: None})  # raises an error that lists near addresses or all matches
        raise ValueError(f"sweep: argument 'space' must name addresses of the optimizer; got '{address}'")
    stem, _, name = full.rpartition(".")
    expression = expression_of(parts.get(stem))
    return (None if expression is None else expression.maker), name
