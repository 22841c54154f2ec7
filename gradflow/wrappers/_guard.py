"""Guards: a step whose gradient is not finite is skipped, and the inner state stays as it was."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_complex
from gradflow._expressions._arguments import Index
from gradflow._rules._mesh_axes import AxisName, check_axis_name, leaves_by_axes, sum_axes
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if


class ApplyIfFiniteState(NamedTuple):
    """Failures in a row, whether the last gradient was finite, all failures, and the inner state."""

    notfinite_count: jax.Array
    last_finite: jax.Array
    total_notfinite: jax.Array
    inner_state: OptState


def all_finite(updates: Updates, axes: tuple[str, ...] = ()) -> jax.Array:
    """Whether every number of a tree is finite, on all devices along `axes`."""
    finite = jnp.asarray(True)
    for names, leaves in leaves_by_axes(updates, axes).items():
        parts = [(x.real, x.imag) if is_complex(x.dtype) else x for x in leaves]
        # The largest absolute value is one fused reduction; XLA writes a tree of `isfinite` to memory.
        here = tree.norm(parts, ord=np.inf) < np.inf
        finite = finite & (jax.lax.pmin(here.astype(jnp.int32), names) > 0 if names else here)
    return finite


@transformation(reports=("finite", "skipped"), elementwise=True)
def apply_if_finite(
    inner: GradientTransformation, max_consecutive_errors: Index, *, axis_name: AxisName = None
) -> Pair:
    """Skips a step whose gradient has a NaN or an infinity: zero updates, an unchanged inner state.

    After `max_consecutive_errors` such steps in a row the next one is applied, and counting starts again.

    Args:
      inner: the transformation to guard.
      max_consecutive_errors: a whole number >= 0.
      axis_name: axes of `shard_map` over which all devices take one decision; `()` for replicated updates.

    Raises ValueError inside `shard_map` without `axis_name`, since devices could decide differently.
    """
    check_axis_name("apply_if_finite", axis_name)

    def init(params: Params) -> OptState:
        return ApplyIfFiniteState(
            notfinite_count=zero_scalar(params),
            last_finite=zero_scalar(params, bool, True),
            total_notfinite=zero_scalar(params),
            inner_state=inner.init(params),
        )

    def update(
        updates: Updates, state: ApplyIfFiniteState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ApplyIfFiniteState]:
        finite = all_finite(updates, sum_axes(axis_name, updates))
        streak = jnp.where(finite, 0, increment(state.notfinite_count))
        given_up = streak > max_consecutive_errors
        take = finite | given_up
        updates, inner_state = update_if(take, inner, updates, state.inner_state, params, extra)
        total = jnp.where(finite, state.total_notfinite, increment(state.total_notfinite))
        report("finite", finite)
        report("skipped", lambda: ~take)
        return updates, ApplyIfFiniteState(jnp.where(given_up, 0, streak), finite, total, inner_state)

    return init, update
