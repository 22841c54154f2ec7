"""The placeholder for a leaf that is left out."""

from typing import Any, NamedTuple


class MaskedNode(NamedTuple):
    """The placeholder for a leaf that is left out, a pytree without leaves."""


def is_absent(x: Any) -> bool:
    """Whether a node of a tree is None or the placeholder for a leaf."""
    return x is None or isinstance(x, MaskedNode)
