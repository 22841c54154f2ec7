"""Functions of one argument that are values: schedules and selectors."""

from collections.abc import Callable, Mapping
from typing import Any

from gradflow._checked import FUNCTION, checked
from gradflow._expressions._expression import Expression
from gradflow._expressions._factory import Factory, P, decorate
from gradflow._expressions._registry import KINDS, ValueKind
from gradflow._tables import preformatted
from gradflow._types import Schedule


class FunctionValue:
    """A function that prints, compares and pickles as the call that made it."""

    __slots__ = ("__weakref__", "_function", "expression")

    def __init__(self, expression: Expression, function: Callable[..., Any]) -> None:
        self.expression = expression
        self._function = function

    def __call__(self, argument: Any) -> Any:
        return self._function(argument)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionValue) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return repr(self.expression)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def __copy__(self) -> "FunctionValue":
        return self

    def __deepcopy__(self, memo: Any) -> "FunctionValue":
        return self

    def __reduce__(self) -> Any:
        return self.expression.maker.reduce(self.expression.arguments)


class ScheduleValue(FunctionValue):
    """A function from a step to a value."""

    __slots__ = ()


def register_functions(kind: str, value: type[FunctionValue]) -> None:
    """Registers a kind of factories whose body returns a function; `value` wraps it."""

    def build(factory: Factory, arguments: Mapping[str, Any]) -> FunctionValue:
        return value(Expression(factory, arguments), factory.call_body(arguments))

    KINDS[kind] = ValueKind(build)


register_functions("schedule", ScheduleValue)


@checked(body=FUNCTION)
def schedule(body: Callable[P, Schedule], /) -> Callable[P, Schedule]:
    """Turns a function that returns `count -> value` into a factory of schedules.

    What the factory returns is a value: it prints, compares, hashes, pickles and can be rebuilt with other
    arguments.
    """
    return decorate(body, "schedule", result_type=Schedule)
