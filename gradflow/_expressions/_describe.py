"""A value with every argument that it has."""

from typing import Any

from gradflow import _errors
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import layout


class Description(str):
    """Text that a prompt shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def describe(value: Any) -> Description:
    """Every argument of a transformation or schedule and of its parts, those with their defaults too.

    `repr` leaves defaults out. Raises TypeError for what no factory made.
    """
    if expression_of(value) is None:
        raise TypeError(
            f"describe: the argument must be a transformation, schedule or selector made by a factory; "
            f"got {_errors.describe(value)}"
        )
    return Description(layout(value, every=True))
