"""Functions of one argument that are values: schedules and selectors."""

from collections.abc import Callable
from typing import Any

from gradflow._display import outline, preformatted
from gradflow._expression import Expression


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
        return preformatted(outline(self))

    def __copy__(self) -> "FunctionValue":
        return self

    def __deepcopy__(self, memo: Any) -> "FunctionValue":
        return self

    def __reduce__(self) -> Any:
        return self.expression.maker.reduce(self.expression.arguments)


class ScheduleValue(FunctionValue):
    """A function from a step to a value."""

    __slots__ = ()


# What a factory makes of the function that its body returns, by the factory's kind.
FUNCTION_KINDS: dict[str, type[FunctionValue]] = {"schedule": ScheduleValue}
