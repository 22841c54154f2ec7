"""The type of transformations that aggregate gradients."""

from collections.abc import Sequence
from typing import Any, Protocol

from gradflow._core._transformation import GradientTransformationExtraArgs
from gradflow._types import OptState, Params

PerElementUpdates = Any
AggregatedUpdates = Any
MaybeAxis = int | Sequence[int] | None


class AggregatorUpdateFn(Protocol):
    """`update(per_elt_updates, state, params=None, **extra) -> (updates, state)`."""

    def __call__(
        self,
        per_elt_updates: PerElementUpdates,
        state: OptState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[AggregatedUpdates, OptState]: ...


class Aggregator(GradientTransformationExtraArgs):
    """A transformation from gradients with axes of examples to updates without them."""

    __slots__ = ()

    # For a plain pair, the shapes of updates and gradients are not compared.
    trees = "structure"
