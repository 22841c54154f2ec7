"""The expression that made a value: a factory's name and its arguments.

An expression prints, compares, hashes and can be taken apart; transformations, schedules and
selectors are values because each carries one.
"""

import collections
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from gradflow._errors import describe

_ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes])


class Identity:
    """A key for an object that equals only itself. It keeps the object alive, so ids stay unique."""

    __slots__ = ("object",)

    def __init__(self, obj: Any) -> None:
        self.object = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)


def expression_of(value: Any) -> "Expression | None":
    """The expression that made `value`, if it is one of our values."""
    found = getattr(value, "expression", None)
    return found if isinstance(found, Expression) else None


def _as_dtype(value: Any) -> np.dtype | None:
    """The dtype that `value` names: `np.float32`, `jnp.float32` or a dtype; None for other things."""
    if isinstance(value, np.dtype):
        return value
    if not isinstance(value, type):
        return None
    if issubclass(value, np.generic):
        return np.dtype(value)
    named = getattr(value, "dtype", None)  # jax.numpy's scalar types carry theirs
    return named if isinstance(named, np.dtype) else None


def freeze(value: Any, adopt: Callable[[Any], Any] = lambda value: value) -> Any:
    """A copy of an argument that nobody else can change: lists become tuples, arrays are copied.

    `adopt` may replace a named tuple by one of our values.
    """
    if type(value) in _ATOMS:
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
    return value if dtype is None else dtype


def key_of(value: Any) -> Any:
    """A hashable that is equal for equal frozen arguments: types count, and so does the sign of 0."""
    if type(value) is float:
        return float, value.hex()
    if type(value) in _ATOMS and not isinstance(value, complex):
        return type(value), value
    if isinstance(value, jax.Array):
        return Identity(value)
    expression = expression_of(value)
    if expression is not None:
        return expression
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            return Identity(value)
        return type(value), value.dtype, value.shape, value.tobytes()
    if type(value) is complex:
        return complex, value.real.hex(), value.imag.hex()
    if isinstance(value, tuple):
        return type(value), *map(key_of, value)
    if type(value) is dict:
        # In order: the first match of a dict of patterns wins.
        return dict, *((key_of(key), key_of(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return functools.partial, key_of(value.func), key_of(value.args), key_of(value.keywords)
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return type(value), value


def show(value: Any) -> str:
    """An argument as one would type it."""
    expression = expression_of(value)
    if expression is not None:
        return repr(value)
    if isinstance(value, jax.core.Tracer):
        return f"Tracer({describe(value)})"
    if isinstance(value, jax.Array):
        scalar = value.shape == () and value.is_fully_addressable and value.dtype.kind in "fiub"
        return f"Array({value.item()!r}, {value.dtype})" if scalar else f"Array({describe(value)})"
    if isinstance(value, np.ndarray):
        return f"array({value.tolist()!r})" if value.size <= 8 else f"array({describe(value)})"
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        inner = ", ".join(f"{k}={show(v)}" for k, v in zip(value._fields, value, strict=True))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, tuple):
        inner = ", ".join(map(show, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is dict:
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, functools.partial):
        return f"partial({show(value.func)}, ...)"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__).replace("<locals>.", "").replace("<lambda>", "lambda")
    return repr(value)


class Maker(Protocol):
    """What an expression knows of the factory that it names."""

    @property
    def name(self) -> str:
        """The factory's name."""

    @property
    def kind(self) -> str:
        """What it makes: "transformation", "schedule" or "selector"."""

    @property
    def variadic(self) -> str | None:
        """The name of its `*args`, if it has them."""

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its signature."""

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """Freezes and checks the arguments and calls the factory on them."""

    def reduce(self, arguments: Mapping[str, Any]) -> Any:
        """What a pickle stores for a value that the factory made."""


class Expression:
    """A factory and its frozen arguments. One key, hashed once, compared once a level."""

    __slots__ = ("__weakref__", "_hash", "_key", "_text", "arguments", "maker")

    def __init__(self, maker: Maker, arguments: Mapping[str, Any]) -> None:
        self.maker = maker
        self.arguments = arguments
        self._key = tuple((name, key_of(value)) for name, value in arguments.items())
        self._hash = hash((maker.name, self._key))
        self._text: str | None = None

    @property
    def name(self) -> str:
        """The factory's name."""
        return self.maker.name

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expression) or self._hash != other._hash:
            return False
        return self.maker is other.maker and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        if self._text is None:
            parts: list[str] = []
            for name, value in self.arguments.items():
                if name == self.maker.variadic:
                    parts.extend(map(show, value))
                else:
                    parts.append(f"{name}={show(value)}")
            self._text = f"{self.name}({', '.join(parts)})"
        return self._text

    def given(self) -> dict[str, Any]:
        """The arguments that are not the factory's defaults."""
        defaults = {name: key_of(freeze(p.default)) for name, p in self.maker.parameters.items()}
        return {name: value for name, value in self.arguments.items() if key_of(value) != defaults[name]}

    def rebuild(self, changes: Mapping[str, Any] | None = None) -> Any:
        """The value made by the same factory with some arguments changed."""
        return self.maker.make({**self.arguments, **(changes or {})})


class Child(NamedTuple):
    """One of our values among the arguments of another: its label there, and the way to it."""

    label: str
    slot: tuple[Any, ...]
    value: Any


def _find(value: Any, labels: tuple[str, ...], slot: tuple[Any, ...]) -> Iterator[Child]:
    expression = expression_of(value)
    if expression is not None:
        if expression.maker.kind == "selector":
            return  # an argument like others: nobody edits the inside of one
        if expression.maker.kind == "transformation":
            labels = labels[1:]  # the argument's name tells a schedule's part, and nothing of a stage
        yield Child(".".join((*labels, expression.name)), slot, value)
    elif type(value) is dict:
        for key, item in value.items():
            yield from _find(item, (*labels, key if isinstance(key, str) else show(key)), (*slot, key))
    elif type(value) is tuple:
        named = len(value) == 2 and isinstance(value[0], str)
        for index, item in enumerate(value):
            yield from _find(item, (*labels, value[0]) if named else labels, (*slot, index))


def children(arguments: Mapping[str, Any]) -> list[Child]:
    """The values among a factory's arguments, in order.

    A label is the factory's name, behind the key or name that the container gives it, if any; siblings
    that would share one label are all numbered.
    """
    found = [c for name, value in arguments.items() for c in _find(value, (name,), (name,))]
    total = collections.Counter(child.label for child in found)
    seen: collections.Counter[str] = collections.Counter()
    labelled = []
    for child in found:
        if total[child.label] > 1:
            seen[child.label] += 1
            child = child._replace(label=f"{child.label}[{seen[child.label] - 1}]")
        labelled.append(child)
    return labelled


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with `function` applied to every one of our values inside its containers."""
    if expression_of(value) is not None:
        return function(value)
    if type(value) is tuple:
        return tuple(map_values(item, function) for item in value)
    if type(value) is dict:
        return {key: map_values(item, function) for key, item in value.items()}
    return value
