"""Kinds of arguments: their ranges, checked when a transformation is built.

The kinds are annotations: `b1: Decay = 0.9` declares to readers, type checkers and `decorate` that b1 is a
number in [0, 1) that may be traced or scheduled.
"""

import contextlib
import contextvars
import functools
import inspect
import math
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import FUNCTION, MAPPING, NAMES, Kind, is_beyond_64_bits, is_flag
from gradflow._errors import describe
from gradflow._types import MaskOrFn

Scalar = float | int | np.ndarray | np.generic | jax.Array
ScalarOrSchedule = Scalar | Callable[[Any], Any]


class Interval(Kind):
    """A hyper-parameter: a scalar from `low` to `high`, given as a number, an array or a schedule."""

    or_schedule = " or a schedule"

    def __init__(
        self,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        low_open: bool = False,
        high_open: bool = False,
        at_init: bool = False,
        infinite: bool = False,
        hint: str = "",
    ) -> None:
        self.low = low
        self.high = high
        self.low_open = low_open
        self.high_open = high_open
        self.at_init = at_init  # used by init only: a schedule is evaluated once, at step 0
        self.infinite = infinite  # for bounds, where infinity means no limit
        self.hint = hint

    def __str__(self) -> str:
        if math.isinf(self.high):
            if math.isinf(self.low):
                return "a finite number"
            number = f"a number {'>' if self.low_open else '>='} {self.low:g}"
            return f"{number} or infinity" if self.infinite else number
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"a number in {left}{self.low:g}, {self.high:g}{right}"

    def contains(self, number: float) -> bool:
        """Whether `number` lies in the interval, and is finite unless the interval has infinity."""
        above = number > self.low if self.low_open else number >= self.low
        below = number < self.high if self.high_open else number <= self.high
        return above and below and (self.infinite or math.isfinite(number))

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a value that is not a scalar, ValueError for a scalar out of range."""
        if type(value) is float and (self.low < value < self.high or self.contains(value)):
            return
        if callable(value) and not isinstance(value, type):
            check_schedule(owner, name, value)
            return
        expected = f"{owner}: argument '{name}' must be {self}{self.or_schedule}"
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.ndarray | np.generic | jax.Array
        ):
            raise TypeError(f"{expected}; got {describe(value)}{_wrong_type_hint(name, value)}")
        value = only_number(value)
        if np.shape(value) != ():
            hint = _wrong_type_hint(name, value)
            raise ValueError(f"{expected}; got an array of shape {np.shape(value)}{hint}")
        if isinstance(value, jax.core.Tracer):
            return
        if not isinstance(value, int | float):
            if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)):
                raise TypeError(f"{expected}; got {describe(value)}")
            if isinstance(value, jax.Array) and not value.is_fully_addressable:
                return
        number = _as_float(value)
        if not self.contains(number):
            hint = f". {self.hint}" if self.hint and number < 0 else ""
            raise ValueError(f"{expected}; got {number}{hint}")

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The value, with an integer that no array can hold as a float; raises like `check`.

        An array of one number becomes that number, of shape ().
        """
        self.check(owner, name, value)
        value = only_number(value)
        return _as_float(value) if is_beyond_64_bits(value) else value


def only_number(value: Any) -> Any:
    """An array of one number as an array of shape (); other values as they are."""
    is_array = isinstance(value, np.ndarray | jax.Array)
    return value.reshape(()) if is_array and value.shape != () and value.size == 1 else value


def _as_float(value: Any) -> float:
    """The value as a float; an integer beyond the largest float is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _wrong_type_hint(name: str, value: Any) -> str:
    """The hint for a value that is not a scalar: what it most likely was meant to be."""
    if isinstance(value, str):
        try:
            return f". Pass the number {float(value):g}, without quotes."
        except ValueError:
            return ""
    if name == "learning_rate" and (isinstance(value, dict | list | tuple) or np.ndim(value) > 0):
        return ". The optimizer takes no parameters: pass them to init, as in state = tx.init(params)."
    return ""


def check_schedule(owner: str, name: str, schedule: Callable[..., Any]) -> None:
    """Raises TypeError for a function that cannot be called with a step count alone."""
    expected = f"{owner}: argument '{name}' must be a number or a schedule, a function of the step count"
    factory = getattr(schedule, "__gradflow__", None)
    if factory is not None:
        raise TypeError(f"{expected}; got the factory {factory.name}. Call it, as in {factory.name}(...).")
    if isinstance(schedule, types.FunctionType):
        code, defaults = schedule.__code__, schedule.__defaults__ or ()
        takes_any = code.co_flags & inspect.CO_VARARGS
        if (code.co_argcount == 0 and not takes_any) or code.co_argcount - len(defaults) > 1:
            raise TypeError(f"{expected}; got a function of {code.co_argcount} arguments.")


_RATES_ARE_SILENT: contextvars.ContextVar[bool] = contextvars.ContextVar("silent rates", default=False)


@contextlib.contextmanager
def negative_rates() -> Iterator[None]:
    """No warning of a negative rate: a pytree's leaves are also gradients, tangents or differences."""
    token = _RATES_ARE_SILENT.set(True)
    try:
        yield
    finally:
        _RATES_ARE_SILENT.reset(token)


class LearningRate(Interval):
    """A rate >= 0; a negative one, which ascends, is used with a warning."""

    def contains(self, number: float) -> bool:
        """Whether `number` is finite."""
        if number < 0 and math.isfinite(number) and not _RATES_ARE_SILENT.get():
            _warn_of_ascent(number)
        return math.isfinite(number)


@functools.lru_cache(maxsize=256)  # a rate passes through several factories
def _warn_of_ascent(rate: float) -> None:
    warnings.warn(
        f"the learning rate {rate:g} is negative, so updates ascend unless another stage flips them. "
        "To descend, pass a positive rate.",
        stacklevel=2,
    )


_INT32 = 2**31 - 1  # counters are int32


class _Flag(Kind):
    """A flag that is fixed when the transformation is built."""

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The flag as a bool, so that equal calls print alike."""
        self.check(owner, name, value)
        return bool(value)


_BOOL = _Flag("True or False", is_flag)


class WholeNumber(Kind):
    """A whole number that fixes the shape of the computation: it can be neither traced nor scheduled.

    `epochs * examples / batch` is a float, so whole floats are taken, and so are scalar arrays. All become
    Python integers: the argument prints and compares as one.
    """

    def __init__(self, low: int | None = 0, high: int | None = None, *, or_function: bool = False) -> None:
        self.low = low  # None for no bound
        self.high = high
        self.or_function = or_function  # whether a function of the step may give it

    def __str__(self) -> str:
        number = "a whole number" if self.low is None else f"a whole number >= {self.low}"
        if self.high not in (None, _INT32):
            number += f" and <= {self.high}"
        return f"{number} or a function" if self.or_function else number

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a value that is not a whole number, ValueError for one below `low`."""
        self.read(owner, name, value)

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The value as a Python integer; raises TypeError unless it is whole, ValueError below `low`."""
        if self.or_function and callable(value):
            return value
        number = value if type(value) is int else _whole(value)
        expected = f"{owner}: argument '{name}' must be {self}"
        if number is None:
            raise TypeError(f"{expected}; got {describe(value)}")
        if self.low is not None and number < self.low:
            raise ValueError(f"{expected}; got {describe(number)}")
        if self.high is not None and number > self.high:
            limit = f" and <= {_INT32}" if self.high == _INT32 else ""
            raise ValueError(f"{expected}{limit}; got {describe(number)}")
        if not math.isfinite(_as_float(number)):  # schedules divide by lengths
            raise ValueError(f"{expected}, within the range of floats; got {describe(number)}")
        return number


def _whole(value: Any) -> int | None:
    """A concrete scalar that is whole, up to rounding, as a Python integer; None for other values."""
    if isinstance(value, bool | np.bool_ | jax.core.Tracer):
        return None
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array) or np.shape(value) != ():
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    if not isinstance(value, int | float):
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating)):
            return None
        value = value.item()
    if not math.isfinite(value):
        return None
    # A product such as 0.07 * 100, which is 7.000000000000001, is meant as a whole number.
    whole = round(value)
    return whole if abs(value - whole) <= 1e-12 * abs(value) else None


_DESCENDS = "Updates already point against the gradient; to maximize, negate the loss."

Rate = Annotated[ScalarOrSchedule, LearningRate(0.0, hint=_DESCENDS)]
NonNegativeRate = Annotated[ScalarOrSchedule, Interval(0.0, hint=_DESCENDS)]
InitialRate = Annotated[ScalarOrSchedule, Interval(0.0, at_init=True, hint=_DESCENDS)]
InitialNonNegative = Annotated[ScalarOrSchedule, Interval(0.0, at_init=True)]
InitialPositive = Annotated[ScalarOrSchedule, Interval(0.0, low_open=True, at_init=True)]
Decay = Annotated[ScalarOrSchedule, Interval(0.0, 1.0, high_open=True)]
Fraction = Annotated[ScalarOrSchedule, Interval(0.0, 1.0)]
Positive = Annotated[ScalarOrSchedule, Interval(0.0, low_open=True)]
NonNegative = Annotated[ScalarOrSchedule, Interval(0.0)]
Multiplier = Annotated[ScalarOrSchedule, Interval(1.0, low_open=True)]
Finite = Annotated[ScalarOrSchedule, Interval()]
Limit = Annotated[ScalarOrSchedule, Interval(0.0, infinite=True)]
GrowthLimit = Annotated[ScalarOrSchedule, Interval(1.0, infinite=True)]
PositiveLimit = Annotated[ScalarOrSchedule, Interval(0.0, low_open=True, infinite=True)]
Size = Annotated[int, WholeNumber(1, _INT32)]
SizeOrFunction = Annotated[int | Callable[[Any], Any], WholeNumber(1, _INT32, or_function=True)]
Index = Annotated[int, WholeNumber(0, _INT32)]
# Each of them is traced or stored, so a slip of the finger would build a program without an end.
Iterations = Annotated[int, WholeNumber(1, 10_000)]
# The length of an axis, compared in Python: any number is a bound.
Length = Annotated[int, WholeNumber(0)]
PositiveLength = Annotated[int, WholeNumber(1)]


class Argument(NamedTuple):
    """The kind of one argument, and whether it may be None."""

    kind: Any
    optional: bool

    @property
    def is_hyperparameter(self) -> bool:
        """Whether the argument may be traced, swept and scheduled."""
        return isinstance(self.kind, Interval)

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises unless `value` is of the argument's kind."""
        if value is None and self.optional:
            return
        self.kind.check(owner, name, value)

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The value as its kind stores it; raises unless it is of that kind."""
        if value is None and self.optional:
            return value
        return self.kind.read(owner, name, value)


class _Mask(Kind):
    """A mask. What its leaves mean is only known with the parameters. Of numbers, 0 and 1 are flags."""

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError naming the first leaf that is a number, an array of numbers or a class."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if not self.fits(leaf):
                at = jax.tree_util.keystr(path, simple=True, separator="/")
                if not at:
                    super().check(owner, name, leaf)
                what = f"in argument '{name}' leaves of a mask"
                raise TypeError(f"{owner}: {what} must be True or False; got {describe(leaf)} at '{at}'")

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The mask with flags as booleans, so that equal calls print alike."""
        self.check(owner, name, value)
        return _flags_as_bools(value)


def _flags_as_bools(mask: Any) -> Any:
    # The order of a dict counts, which jax.tree.map would sort.
    if type(mask) is dict:
        return {key: _flags_as_bools(item) for key, item in mask.items()}
    if type(mask) is tuple:
        return tuple([_flags_as_bools(item) for item in mask])
    if isinstance(mask, tuple) and hasattr(mask, "_fields"):
        return type(mask)(*map(_flags_as_bools, mask))
    return bool(mask) if is_flag(mask) else mask


def _may_be_of_a_mask(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return leaf.dtype == np.bool_ or is_flag(leaf)
    return not isinstance(leaf, int | float | complex | type) or is_flag(leaf)


MASK = _Mask("a tree of booleans, a function of the parameters, a selector or one pattern", _may_be_of_a_mask)
_AXIS = WholeNumber(None)


def _choice(options: tuple[Any, ...]) -> Kind:
    """One of these words. Another word is refused by the factory itself."""
    words = f"one of {', '.join(map(repr, options))}"
    return Kind(words, lambda value: not isinstance(value, jax.Array | np.ndarray | Mapping | list | set))


def read_argument(annotation: Any, is_variadic: bool = False) -> Argument | None:
    """The kind that an annotation declares; None if it declares nothing that is checked.

    A plain type of variadic arguments is that of each, so it says nothing of the tuple or dict of them.
    """
    optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        options = [a for a in get_args(annotation) if a is not type(None)]
        optional = len(options) < len(get_args(annotation))
        if tuple(options) == get_args(MaskOrFn):
            return Argument(MASK, optional)
        if len(options) != 1:
            return None
        annotation = options[0]
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Kind):
            return Argument(extra, optional)
    kind = None if is_variadic else _kind_of_type(annotation)
    return None if kind is None else Argument(kind, optional)


def _kind_of_type(annotation: Any) -> Kind | None:
    """The kind of a plain type, a function, a mapping, a row of names or a choice of words."""
    origin = get_origin(annotation)
    if annotation is bool:
        return _BOOL
    if annotation is int:
        return _AXIS
    if origin is Callable or (getattr(annotation, "_is_protocol", False) and "__call__" in vars(annotation)):
        return FUNCTION
    if origin in (Mapping, dict):
        return MAPPING
    if annotation == tuple[str, ...]:
        return NAMES
    return _choice(get_args(annotation)) if origin is Literal else None
