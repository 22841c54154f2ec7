"""The placeholder of a leaf that is left out."""

from typing import Any, NamedTuple


class MaskedNode(NamedTuple):
    """Stands in the place of a leaf that is left out; holds nothing."""


def is_absent(x: Any) -> bool:
    """Whether a node of a tree stands in the place of a leaf that is not there."""
    return x is None or isinstance(x, MaskedNode)
