"""Skipping steps whose gradient or loss is far above those of the last steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._extra_arguments import loss_value
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Positive, Size
from gradflow._rules._math import safe_sqrt
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if

_LARGEST = 2.0**60  # the square of a deviation must be in range


class SpikeWindow(NamedTuple):
    """The latest numbers, in a ring, and how many came."""

    values: jax.Array
    seen: jax.Array


class SkipSpikesState(NamedTuple):
    """Steps skipped, the latest norms and losses, and the inner state."""

    total_skipped: jax.Array
    norms: SpikeWindow
    losses: SpikeWindow
    inner_state: OptState


def is_spike(window: SpikeWindow, value: jax.Array, sigmas: jax.Array) -> jax.Array:
    """Whether a number is far above the window's mean; never before the window is half full."""
    length = window.values.shape[0]
    held = jnp.minimum(window.seen, length)
    n = jnp.maximum(held, 2).astype(value.dtype)
    inside = jnp.arange(length, dtype=held.dtype) < held
    mean = jnp.sum(jnp.where(inside, window.values, 0)) / n
    deviation = safe_sqrt(jnp.sum(jnp.where(inside, (window.values - mean) ** 2, 0)) / (n - 1))
    # The last term is the rounding of equal numbers.
    far = value > mean + sigmas * deviation + 1e-5 * jnp.abs(mean)
    return (held >= max(2, length // 2)) & far | ~(jnp.abs(value) < _LARGEST)


def add_to(window: SpikeWindow, value: jax.Array) -> SpikeWindow:
    """The window with one more number, unless that is too large to take part in a mean."""
    fits = jnp.abs(value) < _LARGEST
    slot = window.seen % window.values.shape[0]
    values = window.values.at[slot].set(jnp.where(fits, value, window.values[slot]))
    return SpikeWindow(values, jnp.where(fits, increment(window.seen), window.seen))


@transformation(reports=("skipped", "norm"), packable=True, sums=True)
def skip_spikes(
    inner: GradientTransformation, window: Size = 128, sigmas: Positive = 6.0, *, axis_name: AxisName = None
) -> Pair:
    """Skips a step whose gradient norm or loss is an outlier: zero updates, the inner state untouched.

        spike = x > mean(last x) + sigmas * deviation(last x)        x: norm(g), or the loss

    Args:
      inner: the whole optimizer. Extra arguments reach it.
      window: how many of the last norms and losses are kept, >= 1; 128 in OLMo. Until half of them are
        there nothing is skipped.
      sigmas: > 0; 6 in OLMo.
      axis_name: axes of `shard_map` over which the norm runs; `()` for replicated updates.

    The extra argument `value`, the loss, is watched where it is given. A norm or a loss beyond 2^60, or not
    finite, is a spike from the first step on. Skipped ones stay in the window: a lasting change is accepted.
    Reports `skipped` and `norm`. Source: OLMo Team 2024, arXiv:2501.00656.

    >>> import gradflow as gf
    >>> print(gf.skip_spikes(gf.adamw(1e-3)))
    skip_spikes(adamw(0.001))
    """
    check_axis_name("skip_spikes", axis_name)

    def init(params: Params) -> OptState:
        def empty() -> SpikeWindow:
            zeros = zero_scalar(params, jnp.float32) + jnp.zeros((window,), jnp.float32)
            return SpikeWindow(zeros, zero_scalar(params))

        return SkipSpikesState(zero_scalar(params), empty(), empty(), inner.init(params))

    def update(
        updates: Updates,
        state: SkipSpikesState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Updates, SkipSpikesState]:
        size, power = scaled_norm(updates, sum_axes(axis_name, updates))
        norm, limit = (size / power).astype(jnp.float32), jnp.asarray(sigmas, jnp.float32)
        spike, norms, losses = is_spike(state.norms, norm, limit), add_to(state.norms, norm), state.losses
        if value is not None:
            loss = loss_value(value).astype(jnp.float32)
            spike, losses = spike | is_spike(state.losses, loss, limit), add_to(state.losses, loss)
            extra = {**extra, "value": value}
        u, inner_state = update_if(~spike, inner, updates, state.inner_state, params, extra)
        report("skipped", spike)
        report("norm", norm)
        total = jnp.where(spike, increment(state.total_skipped), state.total_skipped)
        # An untouched window would be one array of two states.
        losses = SpikeWindow(jnp.copy(losses.values), jnp.copy(losses.seen)) if value is None else losses
        return u, SkipSpikesState(total, norms, losses, inner_state)

    return init, update
