"""Printing a value with all of its arguments."""

from typing import Any

from gradflow import _errors
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import layout


class Description(str):
    """Text that an interactive prompt prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def describe(value: Any) -> Description:
    """A transformation or schedule with every argument of all its parts, defaults included.

    `repr` leaves defaults out. Raises TypeError for a value that was not made by a factory.
    """
    if expression_of(value) is None:
        raise TypeError(
            "describe: the value must be a transformation, schedule or selector made by a factory; "
            f"got {_errors.describe(value)}"
        )
    return Description(layout(value, every=True))
