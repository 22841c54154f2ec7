"""Splits an expression into its numbers and a skeleton, which is equal for all values of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gradflow._expressions._expression import map_values
from gradflow._expressions._keys import expression_of, key_of

Scalar = float | jax.Array


class Skeleton:
    """An expression without its numbers. Expressions that differ only in numbers have equal skeletons."""

    __slots__ = ("_hash", "_key", "arguments", "maker", "numbers")

    def __init__(self, maker: Any, arguments: Mapping[str, Any], numbers: frozenset[str]) -> None:
        self.maker = maker
        self.arguments = arguments  # with a `Skeleton` for each inner value, and None for each number
        self.numbers = numbers
        self._key = (maker, numbers, tuple([(name, _key(value)) for name, value in arguments.items()]))
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Skeleton) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def rebuild(self, numbers: Iterator[Any]) -> Any:
        """The value with its numbers taken from `numbers`, in order."""
        arguments: dict[str, Any] = {}
        for name, value in self.arguments.items():
            arguments[name] = next(numbers) if name in self.numbers else _rebuild(value, numbers)
        return self.maker.build(arguments)


def take_numbers(expression: Any) -> tuple[Skeleton, list[Scalar]]:
    """An expression's skeleton and its numbers, in the order that `Skeleton.rebuild` expects.

    Numbers are the scalar hyper-parameters of transformations and schedules, at any depth. Python and NumPy
    numbers become floats, so they are operands of one type.
    """
    numbers: list[Scalar] = []

    def is_wanted(maker: Any, name: str, value: Any) -> bool:
        return name in maker.hyperparameters and is_number(value)

    skeleton = _take(expression, is_wanted, numbers)
    return skeleton, [number if isinstance(number, jax.Array) else float(number) for number in numbers]


def take_arrays(expression: Any) -> tuple[Skeleton, list[jax.Array]]:
    """An expression's skeleton without the jax arrays among its arguments, at any depth, and these arrays."""
    arrays: list[jax.Array] = []
    return _take(expression, lambda maker, name, value: isinstance(value, jax.Array), arrays), arrays


def _take(expression: Any, is_wanted: Callable[[Any, str, Any], bool], taken: list[Any]) -> Skeleton:
    maker = expression.maker
    names: set[str] = set()
    arguments: dict[str, Any] = {}

    def inside(value: Any) -> Any:
        inner = expression_of(value)
        # A selector has no hyper-parameters; it is kept, because other values may compare it by identity.
        return value if inner.maker.kind == "selector" else _take(inner, is_wanted, taken)

    for name, value in expression.arguments.items():
        if is_wanted(maker, name, value):
            taken.append(value)
            names.add(name)
            arguments[name] = None
        else:
            arguments[name] = map_values(value, inside)
    return Skeleton(maker, arguments, frozenset(names))


def is_number(value: Any) -> bool:
    """Whether an argument is a real scalar: a Python or NumPy number, or an array of shape ()."""
    if isinstance(value, jax.Array):
        return (value.shape == () and value.dtype.kind in "fiu") or _is_extended_float(value)
    if isinstance(value, np.ndarray):
        return value.shape == () and value.dtype.kind in "fiu"
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_extended_float(value: jax.Array) -> bool:
    return value.shape == () and jax.numpy.issubdtype(value.dtype, np.floating)


def _key(value: Any) -> Any:
    if isinstance(value, Skeleton):
        return value
    if type(value) is tuple:
        return tuple, *map(_key, value)
    if type(value) is dict:
        return dict, *((key_of(key), _key(item)) for key, item in value.items())
    return key_of(value)


def _rebuild(value: Any, numbers: Iterator[Any]) -> Any:
    if isinstance(value, Skeleton):
        return value.rebuild(numbers)
    if type(value) is tuple:
        return tuple([_rebuild(item, numbers) for item in value])
    if type(value) is dict:
        return {key: _rebuild(item, numbers) for key, item in value.items()}
    return value
