"""The result of a minimization, and how it ended."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._types import Params

# What `MinimizeResult.ending` counts in; the braces are filled with the dtype of the value.
STATUSES = ("converged", "stalled at {} precision", "max_steps", "not finite")
CONVERGED, STALLED, MAX_STEPS, NOT_FINITE = range(4)


class MinimizeResult(NamedTuple):
    """The result of a minimization; printed, it says how it ended.

    `gradient_norm` is the largest absolute value in the gradient at `params`. `evaluations` counts calls of
    the function, with or without gradient, including those of line searches. `ending` is the place of
    `status` in `STATUSES`, as an array that passes through jit and vmap. `start_moved` is whether the start
    was outside the bounds; None without bounds.
    """

    params: Params
    value: jax.Array
    gradient_norm: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    converged: jax.Array
    ending: jax.Array
    start_moved: jax.Array | None = None

    @property
    def status(self) -> Any:
        """How it ended, as text; after `vmap`, a NumPy array of texts."""
        return status_of(STATUSES, self.value, self.ending)

    def __str__(self) -> str:
        if np.ndim(self.ending) or isinstance(self.ending, jax.core.Tracer):
            return repr(self)
        return (
            f"{self.status} after {self.steps} steps and {self.evaluations} evaluations: "
            f"value {self.value:.6g}, gradient norm {self.gradient_norm:.3g}{moved_text(self.start_moved)}"
        )


def status_of(texts: Sequence[str], value: jax.Array, ending: Any) -> Any:
    """The text at a place, with the precision of `value`; for an array of places a NumPy array of texts."""
    precision = jnp.result_type(value)
    chosen = np.asarray([text.format(precision) for text in texts])[np.asarray(ending)]
    return str(chosen) if chosen.ndim == 0 else chosen


def moved_text(start_moved: Any) -> str:
    """What a printed result says of a start outside the bounds."""
    is_moved = start_moved is not None and bool(start_moved)
    return "; the start was outside the bounds" if is_moved else ""
