"""A factor on the updates that falls when the loss stops falling."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._extra_arguments import loss_value
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction, Index, Interval, NonNegative, ScalarOrSchedule, Size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import largest_bounded
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._scale import scale_rule
from gradflow.tree._leaves import accumulator

Shrinking = Annotated[ScalarOrSchedule, Interval(0.0, 1.0, low_open=True, high_open=True)]


class ReduceLROnPlateauState(NamedTuple):
    """The scale, the best value, values since it, remaining cooldown, and the size and mean of the
    current window."""

    scale: jax.Array
    best_value: jax.Array
    plateau_count: jax.Array
    cooldown_count: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    avg_value: jax.Array


@jax.jit
def follow_value(
    state: ReduceLROnPlateauState, value: jax.Array, s: dict[str, Any]
) -> ReduceLROnPlateauState:
    """The state after one more value."""
    best = state.best_value
    known = best < jnp.inf
    base = jnp.where(known, best, 0)
    # A value that is not finite counts as equal to the best one. So does one beyond 2^60: nothing would be
    # better than -1e30, and the scale would fall for good.
    value = jnp.where(jnp.abs(value) <= largest_bounded(value.dtype), value, best)
    count = increment(state.count)
    mean = jnp.where(count > 1, state.avg_value, 0)
    # The initial infinity would make the difference NaN.
    finite = (value < jnp.inf) & (mean < jnp.inf)
    step = (jnp.where(finite, value, 0) - jnp.where(finite, mean, 0)) / count.astype(mean.dtype)
    mean = jnp.where(finite, mean + step, jnp.inf)
    full = count >= s["accumulation_size"]

    threshold = jnp.where(known, base - s["rtol"] * jnp.abs(base) - s["atol"], jnp.inf)
    improved = mean < threshold
    paused = state.cooldown_count > 0
    plateau = jnp.where(improved | paused, 0, increment(state.plateau_count))
    reduced = plateau >= s["patience"]
    lower = jnp.minimum(state.scale, jnp.maximum(state.scale * s["factor"], s["min_scale"]))
    pause = jnp.where(paused, state.cooldown_count - 1, jnp.where(reduced, s["cooldown"], 0))
    return ReduceLROnPlateauState(
        scale=jnp.where(full & reduced, lower, state.scale),
        best_value=jnp.where(full & improved, mean, best),
        plateau_count=jnp.where(full, jnp.where(reduced, 0, plateau), state.plateau_count),
        cooldown_count=jnp.where(full, pause, state.cooldown_count),
        count=jnp.where(full, 0, count),
        avg_value=jnp.where(full, 0, mean),
    )


@transformation(reports=("scale",), steps=None, elementwise=True)
def reduce_on_plateau(
    factor: Shrinking = 0.1,
    patience: Size = 10,
    rtol: Fraction = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: Index = 0,
    accumulation_size: Size = 1,
    min_scale: Fraction = 0.0,
) -> Pair:
    """Multiplies updates by a scale that shrinks by `factor` when the loss stops falling.

    A value is better than the best one if it is below `best - rtol * |best| - atol`. The loss is passed
    with each call: `update(updates, state, params, value=loss)`.

    Args:
      factor: of the scale, in (0, 1).
      patience: consecutive values without improvement before the scale shrinks, >= 1.
      rtol: relative margin, in [0, 1].
      atol: absolute margin, >= 0.
      cooldown: values after a reduction that do not count toward patience, >= 0.
      accumulation_size: values whose mean counts as one value, >= 1; for losses of small batches.
      min_scale: lower bound of the scale, in [0, 1].

    A value that is NaN, infinite or beyond 2^60 counts as no improvement. Reports `scale`.
    Raises TypeError without `value`. Defaults are those of PyTorch's ReduceLROnPlateau.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adam(1e-3), gf.reduce_on_plateau(patience=5)))
    chain(adam(0.001), reduce_on_plateau(patience=5))
    """

    def init(params: Params) -> OptState:
        dtype = accumulator(jax.tree.leaves(params), real=True)
        return ReduceLROnPlateauState(
            scale=zero_scalar(params, np.float32, 1.0),
            best_value=zero_scalar(params, dtype, np.inf),
            plateau_count=zero_scalar(params),
            cooldown_count=zero_scalar(params),
            count=zero_scalar(params),
            avg_value=zero_scalar(params, dtype),
        )

    def update(
        updates: Updates, state: ReduceLROnPlateauState, params: Params | None = None, *, value: Any
    ) -> tuple[Updates, ReduceLROnPlateauState]:
        wide, narrow = state.best_value.dtype, state.scale.dtype
        state = follow_value(
            state,
            loss_value(value).astype(wide),
            {
                "factor": jnp.asarray(factor, narrow),
                "min_scale": jnp.asarray(min_scale, narrow),
                "rtol": jnp.asarray(rtol, wide),
                "atol": jnp.asarray(atol, wide),
                "patience": patience,
                "cooldown": cooldown,
                "accumulation_size": accumulation_size,
            },
        )
        report("scale", state.scale)
        (u,) = leafwise(scale_rule, (updates,), factor=state.scale)
        return u, state

    return init, update
