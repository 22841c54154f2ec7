"""Frozen arguments of expressions, and the hashable keys by which they are compared."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# Types whose values are frozen as they are.
ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes])


class Keyed:
    """The base of `Expression`, whose instances are their own keys."""

    __slots__ = ()


class Identity:
    """The key of an object that equals only itself. It keeps the object alive, so its id stays unique."""

    __slots__ = ("object",)

    def __init__(self, obj: Any) -> None:
        self.object = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)


def expression_of(value: Any) -> Any:
    """The `Expression` that made `value`; None if it was not made by a factory."""
    found = getattr(value, "expression", None)
    return found if isinstance(found, Keyed) else None


# Families of dtypes, which `np.dtype` refuses or reads as one of their members.
DTYPE_FAMILIES = {
    family.__name__: family
    for family in (
        np.generic, np.number, np.inexact, np.floating, np.complexfloating,
        np.integer, np.signedinteger, np.unsignedinteger,
    )
}  # fmt: skip


def _as_dtype(value: Any) -> np.dtype | None:
    """The dtype that `value` is or names, such as `np.float32` or `jnp.float32`; None for other values."""
    if isinstance(value, np.dtype):
        return value
    if not isinstance(value, type) or value in DTYPE_FAMILIES.values():
        return None
    if issubclass(value, np.generic):
        return np.dtype(value)
    named = getattr(value, "dtype", None)  # jax.numpy's scalar types have it as an attribute
    return named if isinstance(named, np.dtype) else None


def freeze(value: Any, adopt: Callable[[Any], Any] = lambda value: value) -> Any:
    """An immutable copy of an argument: lists become tuples, NumPy arrays are copied.

    `adopt` may replace a named tuple, or an object that nothing is known of, by a value with an expression.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, jax.Array) or expression_of(value) is not None:
        return value
    if isinstance(value, np.ndarray):
        copy = np.array(value)
        copy.setflags(write=False)
        return copy
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        adopted = adopt(value)
        return adopted if adopted is not value else type(value)(*(freeze(v, adopt) for v in value))
    if isinstance(value, list | tuple):
        return tuple(freeze(item, adopt) for item in value)
    if isinstance(value, Mapping):
        return {key: freeze(item, adopt) for key, item in value.items()}
    if isinstance(value, set):
        return frozenset(value)
    dtype = _as_dtype(value)
    return adopt(value) if dtype is None else dtype


def key_of(value: Any) -> Any:
    """A hashable key, equal for equal frozen arguments. Types are compared, and so is the sign of 0."""
    kind = type(value)
    if kind is float:
        return float, value.hex()
    if kind in ATOMS and kind is not complex:
        return kind, value
    if isinstance(value, jax.Array):
        return Identity(value)
    expression = expression_of(value)
    if expression is not None:
        return expression
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            return Identity(value)
        return kind, value.dtype, value.shape, value.tobytes()
    if kind is complex:
        return complex, value.real.hex(), value.imag.hex()
    if isinstance(value, tuple):
        return kind, *map(key_of, value)
    if kind is dict:
        # The order counts: in a dict of patterns the first match wins.
        return dict, *((key_of(key), key_of(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return functools.partial, key_of(value.func), key_of(value.args), key_of(value.keywords)
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return kind, value
