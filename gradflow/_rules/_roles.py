"""What the fields of a state hold, as their annotations: `mu: Mean`, `nu: Square`.

A wrapper that stores a state in fewer bits reads them. Names do not say it: `ScaleBySM3State.mu` holds
squares. A field without a role holds no array as large as a parameter.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

ROLES = ("mean", "square", "sum", "weights", "other")

if TYPE_CHECKING:
    from typing import TypeAlias

    Mean: TypeAlias = Any
    Square: TypeAlias = Any
    Sum: TypeAlias = Any
    Weights: TypeAlias = Any
    Other: TypeAlias = Any
else:

    class Mean:
        """Signed, such as an average of gradients."""

    class Square:
        """Never negative, and the update divides by it or by its root."""

    class Sum:
        """Grows with the steps; what a step adds is small beside it."""

    class Weights:
        """Copies or averages of parameters: at init the parameters, or zeros for an average."""

    class Other:
        """Bases, histories, step sizes, measurements."""


_NAMES: Mapping[Any, str] = dict(zip((Mean, Square, Sum, Weights, Other), ROLES, strict=True))


@functools.cache
def roles_of(state_type: Any) -> Mapping[str, str]:
    """The role of each field of a state's type that has one."""
    annotations = getattr(state_type, "__annotations__", {})
    return {field: _NAMES[kind] for field, kind in annotations.items() if kind in _NAMES}
