"""Guards: a step whose gradient is not finite is skipped, and the inner state stays as it was."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, stage_of
from gradflow._dtypes import is_complex
from gradflow._expressions._arguments import Index
from gradflow._platform import by_platform
from gradflow._rules._mesh_axes import AxisName, check_axis_name, global_scaled_root, leaves_by_axes, sum_axes
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._norm import has_finite_size
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
        here = has_finite_size(parts)
        finite = finite & (jax.lax.pmin(here.astype(jnp.int32), names) > 0 if names else here)
    return finite


def norm_is_finite(updates: Updates) -> jax.Array:
    """`all_finite`, from the sums that a norm of the updates has: XLA computes and reduces them once."""
    return global_scaled_root(updates, ())[0] < np.inf


@transformation(reports=("finite", "skipped"), elementwise=True, sums=True)
def apply_if_finite(
    inner: GradientTransformation,
    max_consecutive_errors: Index,
    *,
    axis_name: AxisName = None,
    check_state: bool = False,
) -> Pair:
    """Skips a step whose gradient has a NaN or an infinity: zero updates, an unchanged inner state.

    After `max_consecutive_errors` such steps in a row the next one is applied, and counting starts again.

    Args:
      inner: the transformation to guard.
      max_consecutive_errors: a whole number >= 0.
      axis_name: axes of `shard_map` over which all devices take one decision; `()` for replicated updates.
      check_state: also skips a step that makes updates or state not finite, as a finite gradient whose square
        is infinite may. This keeps the old state until the new one is known: on a CPU it is copied.

    Raises ValueError inside `shard_map` without `axis_name`, since devices could decide differently.

    >>> import gradflow as gf
    >>> print(gf.apply_if_finite(gf.adamw(1e-3), 5))
    apply_if_finite(adamw(0.001), 5)
    """
    check_axis_name("apply_if_finite", axis_name)
    # On a CPU the clip is in a branch that the guard decides on.
    stage = stage_of(inner)
    shares_norm = stage is not None and stage.begins_with_norm

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
        axes = sum_axes(axis_name, updates)
        if shares_norm and not axes and jax.tree.leaves(updates):
            finite = by_platform(updates, cpu=all_finite, accelerator=norm_is_finite)
        else:
            finite = all_finite(updates, axes)
        streak, given_up, take = _decision(finite, state, max_consecutive_errors)
        # With kernels that update four leaves of a million numbers, XLA's order of a backward pass of eight
        # layers held 48 MB on a GPU; with those of two it holds 46, as without a guard.
        updates, inner_state = update_if(take, inner, updates, state.inner_state, params, extra, parts=2)
        if check_state:
            finite = finite & all_finite([updates, _news(inner_state, state.inner_state)], axes)
            streak, given_up, take = _decision(finite, state, max_consecutive_errors)
            updates = tree.where(take, updates, tree.zeros_like(updates))
            inner_state = tree.where(take, inner_state, state.inner_state)
        total = jnp.where(finite, state.total_notfinite, increment(state.total_notfinite))
        report("finite", finite)
        report("skipped", lambda: ~take)
        return updates, ApplyIfFiniteState(jnp.where(given_up, 0, streak), finite, total, inner_state)

    return init, update


def _decision(
    finite: jax.Array, state: ApplyIfFiniteState, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Failures in a row, whether they are too many, and whether the step is taken."""
    streak = jnp.where(finite, 0, increment(state.notfinite_count))
    given_up = streak > most
    return streak, given_up, finite | given_up


def _news(new: OptState, old: OptState) -> list[jax.Array]:
    """The floating-point arrays of a state, with zeros where the old one was not finite on purpose."""
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    floats = [(x, y) for x, y in pairs if jnp.issubdtype(x.dtype, jnp.inexact)]
    return [jnp.where(jnp.isfinite(y), x, jnp.zeros((), x.dtype)) for x, y in floats]
