"""gradflow's own factories by name, and what each kind of factory makes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar


class ValueKind(NamedTuple):
    """How factories of one kind read their arguments and build values.

    - `build(factory, arguments)`: the value for frozen arguments.
    - `adopt(value)`: may replace a named tuple among the arguments by a value with an expression.
    - `read_inner(value, owner, place)`: checks an argument that must be a transformation.
    """

    build: Callable[[Any, Mapping[str, Any]], Any]
    adopt: Callable[[Any], Any] = lambda value: value
    read_inner: Callable[[Any, str, str], Any] = lambda value, owner, place: value


KINDS: dict[str, ValueKind] = {}

# Complete once `gradflow._api` is imported, which reading any name of `gradflow` does.
OWN_FACTORIES: dict[str, Any] = {}


def rebuild(make: Any, arguments: Mapping[str, Any]) -> Any:
    """Rebuilds a pickled value from the decorated function of its factory and the frozen arguments."""
    return make.__gradflow__.rebuild(arguments)


# Named tuples of ours that may stand among the arguments of factories, by name.
RECORDS: dict[str, type] = {}

R = TypeVar("R", bound=type)


def register_record(kind: R) -> R:
    """Makes `to_config` and `from_config` take a named tuple."""
    RECORDS[kind.__name__] = kind
    return kind
