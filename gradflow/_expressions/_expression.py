"""The expression that made a value: a factory and its arguments.

An expression prints, compares and hashes, and its parts can be replaced. Transformations, schedules and
selectors are values because each of them has one.
"""

import collections
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from gradflow._expressions._keys import Keyed, expression_of, key_of
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
        self._key = tuple([(name, key_of(value)) for name, value in arguments.items()])
        self._hash = hash((maker.name, self._key))
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
        if not isinstance(other, Expression) or self._hash != other._hash:
            return False
        return self.maker is other.maker and self._key == other._key

    def __hash__(self) -> int:
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


def _find(value: Any, labels: tuple[str, ...], slot: tuple[Any, ...]) -> Iterator[Child]:
    expression = expression_of(value)
    if expression is not None:
        if expression.maker.kind == "selector":
            return  # a selector is a plain argument without parts
        if expression.maker.kind == "transformation":
            labels = labels[1:]  # an argument's name labels a schedule, but not a stage
        yield Child(".".join((*labels, expression.name)), slot, value)
    elif type(value) is dict:
        for key, item in value.items():
            yield from _find(item, (*labels, key if isinstance(key, str) else show(key)), (*slot, key))
    elif type(value) is tuple:
        named = len(value) == 2 and isinstance(value[0], str)
        for index, item in enumerate(value):
            yield from _find(item, (*labels, value[0]) if named else labels, (*slot, index))


def children(arguments: Mapping[str, Any]) -> list[Child]:
    """The values with expressions among a factory's arguments, in order.

    A label is the factory's name, prefixed with the key or name that the container gives it, if any.
    Siblings that would share one label are all numbered.
    """
    found = [c for name, value in arguments.items() for c in _find(value, (name,), (name,))]
    if len(found) < 2:
        return found
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
    """`value` with `function` applied to every value with an expression inside its containers."""
    if expression_of(value) is not None:
        return function(value)
    if type(value) is tuple:
        return tuple([map_values(item, function) for item in value])
    if type(value) is dict:
        return {key: map_values(item, function) for key, item in value.items()}
    return value
