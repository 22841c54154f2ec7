"""A mixture of the newest parameters and their recent average, for evaluation."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Fraction, Interval, ScalarOrSchedule
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._leaves import accumulator
from gradflow.wrappers._eval_params import averages
from gradflow.wrappers._param_average import param_ema_rule

Horizon = Annotated[ScalarOrSchedule, Interval(1.0)]


class TailAverageState(NamedTuple):
    """Steps taken, the weighted sum of the parameters, the sum of the weights, the share of the average, and
    the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    ema: Weights
    weight: jax.Array
    share: jax.Array
    inner_state: OptState


def tail_scalars(horizon: jax.Array) -> Scalars:
    """The weight of the newest parameters, and of the average."""
    c = 1 / horizon
    return {"c": c, "decay": 1 - c}


@transformation(packable=True)
def with_tail_average(inner: GradientTransformation, horizon: Horizon = 150.0, share: Fraction = 0.6) -> Pair:
    """Keeps an average of about the last `horizon` parameters, and mixes it into those that are evaluated.

        ema = (1 - 1 / horizon) * ema + (p + u) / horizon
        weight = (1 - 1 / horizon) * weight + 1 / horizon
        eval_params(state, params) = (1 - share) * params + share * ema / weight

    Args:
      inner: the whole optimizer: a stage after this one would change the update that is averaged.
      horizon: steps, >= 1; 150 in the published runs.
      share: of the average, in [0, 1]; 0.6 in the published runs. 1 is `with_param_ema`.

    The average is held in float32 at least. Source: modded-nanogpt, optimization track, 2026.

    >>> import gradflow as gf
    >>> print(gf.with_tail_average(gf.adamw(0.001)))
    with_tail_average(adamw(0.001))
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # refuses leaves that are not numbers
        ema = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        dtype = accumulator(jax.tree.leaves(params), real=True)
        zero = zero_scalar(params, dtype)
        return TailAverageState(zero_scalar(params), ema, zero, zero_scalar(params, dtype), inner_state)

    def update(
        updates: Updates, state: TailAverageState, params: Params, **extra: Any
    ) -> tuple[Updates, TailAverageState]:
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        updates, ema = leafwise(param_ema_rule, (updates, state.ema, params), tail_scalars, horizon=horizon)
        dtype = state.weight.dtype
        s = tail_scalars(jnp.asarray(horizon, dtype))
        weight = s["decay"] * state.weight + s["c"]
        now = jnp.zeros_like(state.share) + jnp.asarray(share, dtype)
        return updates, TailAverageState(increment(state.count), ema, weight, now, inner_state)

    return init, update


def tail_read_rule(p: jax.Array, ema: jax.Array, s: Any) -> jax.Array:
    """The mixture; p while there is no average."""
    mean = jnp.where(s.weight > 0, ema / jnp.where(s.weight > 0, s.weight, 1), p)
    return p + s.share * (mean - p)


def _read(params: list[Any], ema: list[Any], state: TailAverageState) -> list[Any]:
    (found,) = leafwise(tail_read_rule, (params, ema), weight=state.weight, share=state.share)
    return list(found)


averages(TailAverageState, "ema", _read)
