"""The expression that made a value: a factory and its arguments.

An expression prints, compares and hashes, and its parts can be replaced. Transformations, schedules and
selectors are values because each of them has one.
"""

import collections
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from gradflow._expressions._keys import ATOMS, Keyed, expression_of, key_of
from gradflow._expressions._printing import call_line, layout, show


class Maker(Protocol):
    """What an expression needs of its factory."""

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

    @property
    def default_keys(self) -> Mapping[str, Any]:
        """The keys of the arguments' defaults."""

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """Freezes and checks the arguments, and calls the factory with them."""

    def reduce(self, arguments: Mapping[str, Any]) -> Any:
        """What a pickle stores for a value that the factory made."""


class Expression(Keyed):
    """A factory and its frozen arguments. It has one key, hashed once and compared once per level."""

    __slots__ = ("__weakref__", "_hash", "_key", "_line", "arguments", "maker")

    def __init__(self, maker: Maker, arguments: Mapping[str, Any]) -> None:
        self.maker = maker
        self.arguments = arguments
        # Most values are neither compared nor printed, so this is left until it is needed.
        self._hash: int | None = None
        self._line: str | None = None

    @property
    def name(self) -> str:
        """The factory's name."""
        return self.maker.name

    @property
    def line(self) -> str:
        """The shortest call that rebuilds the value, on one line; cached, so nesting costs linear work."""
        if self._line is None:
            self._line = call_line(self)
        return self._line

    @property
    def expression(self) -> "Expression":
        """Itself, so that functions of a value also accept its expression."""
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expression) or hash(self) != hash(other):
            return False
        return self.maker is other.maker and self._key == other._key

    def __hash__(self) -> int:
        if self._hash is None:
            self._key = tuple([(name, key_of(value)) for name, value in self.arguments.items()])
            self._hash = hash((self.maker.name, self._key))
        return self._hash

    def __repr__(self) -> str:
        return layout(self)

    def rebuild(self, changes: Mapping[str, Any] | None = None) -> Any:
        """The value made by the same factory with some arguments changed."""
        return self.maker.make({**self.arguments, **(changes or {})})


class Child(NamedTuple):
    """A value with an expression among the arguments of another: its label, the path to it, and itself."""

    label: str
    slot: tuple[Any, ...]
    value: Any


def _find(
    value: Any, labels: tuple[str, ...], slot: tuple[Any, ...], found: list[tuple[str, tuple[Any, ...], Any]]
) -> None:
    if type(value) in ATOMS:
        return
    expression = expression_of(value)
    if expression is not None:
        if expression.maker.kind == "selector":
            return  # a selector is a plain argument without parts
        if expression.maker.kind == "transformation":
            labels = labels[1:]  # an argument's name labels a schedule, but not a stage
        name = expression.maker.name
        found.append((".".join((*labels, name)) if labels else name, slot, value))
    elif type(value) is dict:
        for key, item in value.items():
            _find(item, (*labels, _label(key)), (*slot, key), found)
    elif type(value) is tuple:
        if len(value) == 2 and isinstance(value[0], str):
            labels = (*labels, _label(value[0]))
        for index, item in enumerate(value):
            _find(item, labels, (*slot, index), found)


def _label(key: Any) -> str:
    """A key as part of an address: quoted if it has a dot, which separates the parts."""
    return key if isinstance(key, str) and "." not in key else show(key)


def children(arguments: Mapping[str, Any]) -> list[Child]:
    """The values with expressions among a factory's arguments, in order.

    A label is the factory's name, prefixed with the key or name that the container gives it, if any.
    Siblings that would share one label are all numbered.
    """
    found: list[tuple[str, tuple[Any, ...], Any]] = []
    for name, value in arguments.items():
        if type(value) not in ATOMS:
            _find(value, (name,), (name,), found)
    labels = [label for label, _, _ in found]
    if len(set(labels)) < len(labels):
        total = collections.Counter(labels)
        seen: collections.Counter[str] = collections.Counter()
        for place, label in enumerate(labels):
            if total[label] > 1:
                labels[place] = f"{label}[{seen[label]}]"
                seen[label] += 1
    return [Child(label, slot, value) for label, (_, slot, value) in zip(labels, found, strict=True)]


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with `function` applied to every value with an expression inside its containers."""
    if type(value) in ATOMS:
        return value
    if expression_of(value) is not None:
        return function(value)
    if type(value) is tuple:
        return tuple([map_values(item, function) for item in value])
    if type(value) is dict:
        return {key: map_values(item, function) for key, item in value.items()}
    return value
