"""Names for the types of arguments and results."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

MaskOrFn = Any | Callable[[Any], Any]


Params = Any
Updates = Any
OptState = Any
Schedule = Callable[[Any], Any]


class TransformInitFn(Protocol):
    """`init(params) -> state`."""

    def __call__(self, params: Params) -> OptState: ...


class TransformUpdateFn(Protocol):
    """`update(updates, state, params=None, **extra) -> (updates, state)`."""

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]: ...


TransformUpdateExtraArgsFn = TransformUpdateFn


class EmptyState(NamedTuple):
    """The state of a stage that keeps nothing between steps."""


class ScheduledState(NamedTuple):
    """A step counter beside the state of a stage that has none, for its scheduled arguments."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count; the name that optimizer states usually have
    inner_state: OptState


Pair = tuple[Callable[..., Any], Callable[..., Any]]


class MaskedNode(NamedTuple):
    """The placeholder of a leaf that a mask leaves out; it has no leaves."""


def is_absent(x: Any) -> bool:
    """Whether a node of a tree is the placeholder of a missing leaf."""
    return x is None or isinstance(x, MaskedNode)


def is_leafless_transformation(x: Any) -> bool:
    """Whether `x` is a transformation without arrays, which as a tree would have no leaves."""
    return isinstance(x, tuple) and getattr(x, "_fields", ()) == ("init", "update") and not jax.tree.leaves(x)
