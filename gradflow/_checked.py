"""Checks the arguments of plain functions, so that errors name the function, the argument and what came.

    @checked(tree_x=NUMBERS, squared=FLAG)
    def f(tree_x, squared=False): ...

Cheap kinds are checked before the call. Leaves are checked after a call that failed: valid calls do not pay.
"""

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe, owner_of, unfit_call
from gradflow._tracebacks import shorten
from gradflow._types import is_leafless_transformation

P = ParamSpec("P")
R = TypeVar("R")
_INT64 = 2**63
_FAR = 10**6  # a place that no positional argument has


def _no_hint(_: Any) -> str:
    return ""


class Kind:
    """What an argument must be; `check` raises for another, and `read` returns it as a factory keeps it."""

    def __init__(
        self,
        expected: str,
        fits: Callable[[Any], bool],
        optional: bool = False,
        hint_for: Callable[[Any], str] = _no_hint,
    ) -> None:
        self.expected = f"{expected} or None" if optional else expected
        self.fits = fits
        self.optional = optional
        self.hint_for = hint_for  # makes the hint for a value of another kind; a function that pickles

    def __or__(self, _: None) -> "Kind":
        """The kind that has None too."""
        return type(self)(self.expected, self.fits, True, self.hint_for)

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a value of another kind."""
        if (value is None and self.optional) or self.fits(value):
            return
        hint = self.hint_for(value)
        got = f"{describe(value)}. {hint}" if hint else describe(value)
        raise TypeError(f"{owner}: argument '{name}' must be {self.expected}; got {got}")

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The value in the form that an expression keeps; raises like `check`."""
        self.check(owner, name, value)
        return value


class Leaves(Kind):
    """A tree whose leaves are all of a kind; an error names the first that is not."""

    tree = "a tree of arrays"

    def check_tree(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a transformation, which would count as a tree without leaves."""
        if is_leafless_transformation(value):
            raise TypeError(f"{owner}: argument '{name}' must be {self.tree}; got {describe(value)}")

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError naming the path of the first leaf of another kind."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            if not self.fits(leaf):
                at = jax.tree_util.keystr(path, simple=True, separator="/")
                where = f"the leaf at '{at}' of argument '{name}'" if at else f"argument '{name}'"
                raise TypeError(f"{owner}: {where} must be {self.expected}; got {describe(leaf)}")


class States(Leaves):
    """A state of any transformation."""

    tree = "a state, as init returns it"


class Number(Kind):
    """A scalar in a range: a number, or an array of shape (), which may be traced."""

    def __init__(
        self,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        whole: bool = False,
        static: bool = False,
        complex_too: bool = False,
        nan: bool = False,
        optional: bool = False,
    ) -> None:
        self.low, self.high, self.whole, self.static = low, high, whole, static
        self.complex_too, self.nan, self.optional = complex_too, nan, optional
        kind = "a whole number" if whole else "a scalar" if complex_too else "a real scalar"
        least, most = (f"{bound:g}" if abs(bound) < 1e6 else str(bound) for bound in (low, high))
        low_text = f" >= {least}" if low > -math.inf else ""
        high_text = f" <= {most}" if high < math.inf else ""
        bounds = f" in [{least}, {most}]" if low_text and high_text else low_text or high_text
        self.expected = kind + bounds + (" or None" if optional else "")

    def __or__(self, _: None) -> "Number":
        return Number(
            self.low, self.high, whole=self.whole, static=self.static, complex_too=self.complex_too,
            nan=self.nan, optional=True,
        )  # fmt: skip

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a value that is not a scalar, ValueError for one out of range."""
        if (type(value) is int or type(value) is float) and self._has(value):
            return  # the common case first: the other checks take 2 us
        if value is None and self.optional:
            return
        message = f"{owner}: argument '{name}' must be {self.expected}; got "
        if not self._is_of_kind(value):
            raise TypeError(message + describe(value))
        if np.shape(value) != ():
            raise ValueError(f"{message}shape {np.shape(value)}")
        concrete = self._concrete(value)
        if concrete is not None and not self._has(concrete):
            raise ValueError(message + describe(concrete))

    def _is_of_kind(self, value: Any) -> bool:
        if isinstance(value, jax.core.Tracer) and self.static:
            return False
        if isinstance(value, bool) and not self.nan:
            return False  # a flag in the place of a size, bound or rate
        return is_number_or_array(value) and (self.complex_too or not _is_complex(value))

    def _concrete(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | complex):
            return value
        if isinstance(value, jax.Array) and (
            isinstance(value, jax.core.Tracer) or not value.is_fully_addressable or not self.static
        ):
            return None  # reading a jax array would wait for the device
        return value.item()

    def _has(self, number: Any) -> bool:
        if isinstance(number, complex):
            return True
        if is_beyond_64_bits(number):
            return False
        if number != number:
            return self.nan
        return self.low <= number <= self.high and (
            not self.whole or (math.isfinite(number) and number == math.floor(number))
        )


def is_number_or_array(value: Any) -> bool:
    """Whether `value` is a number or an array of numbers, and not of PRNG keys, text or objects."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return bool(jnp.issubdtype(value.dtype, np.number)) or value.dtype == np.bool_
    return isinstance(value, bool | float | complex | int)


def is_beyond_64_bits(value: Any) -> bool:
    """Whether `value` is a Python integer that no array can hold."""
    return isinstance(value, int) and not -_INT64 <= value < _INT64


def is_real_number(value: Any) -> bool:
    """Whether `value` is a concrete real number of Python or NumPy, and not NaN."""
    return isinstance(value, int | float | np.integer | np.floating) and bool(value == value)


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or getattr(getattr(value, "dtype", None), "kind", "") == "c"


def _is_leaf_of_numbers(value: Any) -> bool:
    return is_number_or_array(value) and not is_beyond_64_bits(value)


def _is_any_array(value: Any) -> bool:
    if isinstance(value, type | ModuleType):
        return False  # `numpy` and `numpy.ndarray` have attributes of these names
    has_shape = hasattr(value, "shape") and hasattr(value, "dtype")
    return _is_leaf_of_numbers(value) or (has_shape and getattr(value.dtype, "kind", "") not in "OUSMm")


def _is_dtype(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray | bool | int | float | complex):
        return False
    try:
        dtype = jnp.dtype(value)
    except (TypeError, ValueError):
        return False
    return bool(jnp.issubdtype(dtype, np.number)) or dtype == np.bool_


def _is_function(value: Any) -> bool:
    """Whether a value can be called, and is not a type such as `int` or `dict`."""
    return callable(value) and not (isinstance(value, type) and value.__module__ == "builtins")


def is_flag(value: Any) -> bool:
    """Whether a value is one boolean, or the number 0 or 1, and is not traced."""
    if isinstance(value, bool):
        return True
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        is_number = value.dtype == np.bool_ or jnp.issubdtype(value.dtype, np.number)
        if isinstance(value, jax.core.Tracer) or value.shape != () or not is_number:
            return False
        value = value.item()
    return isinstance(value, int | float) and value in (0, 1)


def _may_be_a_flag(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer):
        return value.dtype == np.bool_ and value.shape == ()
    return is_flag(value)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and 0 <= n < 2**31 for n in value
    )


def _is_key(value: Any) -> bool:
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype == np.uint32


def _is_axes(value: Any) -> bool:
    axes = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(axis, int | np.integer) and not isinstance(axis, bool) for axis in axes)


def _is_axis_names(value: Any) -> bool:
    return all(isinstance(n, str) for n in (value if isinstance(value, tuple | list) else (value,)))


def _loss_first(_: Any) -> str:
    return "The loss function comes first."


def _dict_of_pairs(value: Any) -> str:
    rows = value if isinstance(value, tuple | list) else [None]
    return "Pass dict(pairs)." if all(isinstance(x, tuple | list) and len(x) == 2 for x in rows) else ""


def _is_float(value: Any) -> bool:
    return is_number_or_array(value) and bool(jnp.issubdtype(jnp.result_type(value), jnp.inexact))


FLOATS = Leaves("a floating-point or complex array", _is_float)
NUMBERS = Leaves("an array of numbers", _is_leaf_of_numbers)
TYPED = Leaves("an array with a dtype", lambda leaf: hasattr(leaf, "dtype") and is_number_or_array(leaf))
SHAPED = Leaves("an array", lambda leaf: hasattr(leaf, "shape") and hasattr(leaf, "dtype"))
ARRAYS = Leaves("an array", _is_any_array)
STATE = States("a value", lambda leaf: True)
ARRAY = Kind("an array of numbers", _is_leaf_of_numbers)
FUNCTION = Kind("a function", _is_function)
LOSS_FIRST = Kind("a function", _is_function, hint_for=_loss_first)
FLAG = Kind("True or False", _may_be_a_flag)
PATH = Kind("a path", lambda value: isinstance(value, str | os.PathLike))
TEXT = Kind("a string", lambda value: isinstance(value, str))
TUPLE = Kind("a tuple", lambda value: isinstance(value, tuple | list))
MAPPING = Kind(
    "a dict",
    lambda value: isinstance(value, Mapping),
    hint_for=_dict_of_pairs,
)
DTYPE = Kind("a dtype of numbers", _is_dtype)
SHAPE = Kind("a tuple of sizes", _is_shape)
AXES = Kind("an axis or a tuple of axes", _is_axes)
BLOCKS = Kind("a number of blocks or their sizes", _is_axes)
NAMES = Kind("a tuple of strings", lambda value: not isinstance(value, str) and _is_axis_names(value))
AXIS_NAMES = Kind("the name of a mesh axis or a tuple of names", _is_axis_names)
KEY = Kind("a PRNG key", _is_key)
SCALAR = Number(complex_too=True, nan=True)
REAL = Number(nan=True)


def checked(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: arguments are of the given kinds, or an error names function and argument."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = list(inspect.signature(function).parameters.values())
        names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
        rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        unknown = kinds.keys() - {p.name for p in parameters}
        if unknown:
            raise ValueError(f"{function.__qualname__} has no arguments {sorted(unknown)}")
        owner = owner_of(function)
        late = {name: kind for name, kind in kinds.items() if isinstance(kind, Leaves)}
        defaults = {p.name: p.default for p in parameters}
        keyword_only = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        places = [
            (len(names) + _FAR if name in keyword_only else place, name, kinds[name])
            for place, name in enumerate(names)
            if name in kinds
        ]
        early = [(place, name, kind) for place, name, kind in places if name not in late]
        trees = [(place, name, late[name]) for place, name, _ in places if name in late]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                for place, name, kind in early:
                    if place < len(args):
                        kind.check(owner, name, args[place])
                    elif name in kwargs and kwargs[name] is not defaults[name]:
                        kind.check(owner, name, kwargs[name])
                for place, name, leaves in trees:
                    tree = args[place] if place < len(args) else kwargs.get(name)
                    if isinstance(tree, tuple):  # as transformations are; a call would cost more
                        leaves.check_tree(owner, name, tree)
                try:
                    return function(*args, **kwargs)
                except (TypeError, ValueError, OverflowError, AttributeError, KeyError) as error:
                    unfit = unfit_call(function, error, args, kwargs)
                    if unfit is not None:
                        raise unfit from None
                    given = {**dict(zip(names, args, strict=False)), **kwargs}
                    for name, kind in late.items():
                        own = [given[name]] if name in given else []
                        for value in args[len(names) :] if name == rest else own:
                            kind.check(owner, name, value)
                    _name_owner(owner, error, given.values())
                    raise
            except Exception as error:
                shorten(error)
                raise

        return call

    return decorate


def _name_owner(owner: str, error: Exception, given: Iterable[Any]) -> None:
    """Raises the error again with the function's name, where its message has none."""
    message = error.args[0] if error.args else ""
    if not isinstance(message, str):
        return
    for shared in ("tree: ", "gradflow: "):  # of checks that many functions share
        if message.startswith(shared):
            raise type(error)(f"{owner}: {message.removeprefix(shared)}") from None
    is_named = re.match(r"[\w.]+: ", message) is not None or owner.rpartition(".")[2] in message
    # An error of a function that was passed is the caller's own.
    if type(error) in _PLAIN_ERRORS and not is_named and not any(map(callable, given)):
        raise _PLAIN_ERRORS[type(error)](f"{owner}: {message}") from error


_PLAIN_ERRORS: dict[type[Exception], type[Exception]] = {
    TypeError: TypeError, ValueError: ValueError, OverflowError: ValueError, AttributeError: TypeError,
}  # fmt: skip
