"""What makes one gradient of many."""

from collections.abc import Sequence
from typing import Any, Protocol

from gradflow._core._transformation import GradientTransformation
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


class Aggregator(GradientTransformation):
    """A transformation whose gradients have axes of examples, which its updates have not."""

    __slots__ = ()

    # A pair assembled by hand is not checked for updates shaped like its gradients.
    trees = "structure"
