"""Schedule-free learning: averaging instead of a decaying learning rate."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Interval, NonNegative, Rate, ScalarOrSchedule
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import within
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, moment_dtype, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._leaves import accumulator
from gradflow.wrappers._eval_params import averaged, averages

# The averages are not stored but solved for from y, which is possible only where b1 > 0.
Mixture = Annotated[ScalarOrSchedule, Interval(0.0, 1.0, low_open=True)]


class ScheduleFreeState(NamedTuple):
    """The mixture of the last step, the sum of weights, steps taken, the largest rate so far, the state of
    the base optimizer, and its points z."""

    b1: jax.Array
    weight_sum: jax.Array
    step_count: jax.Array
    max_lr: jax.Array
    base_optimizer_state: OptState
    z: Weights


@jax.jit
def schedule_free_scalars(max_lr: jax.Array, weight_sum: jax.Array, weight_lr_power: jax.Array) -> Scalars:
    """The weight of the new point in the average, and the sum of all weights."""
    moving = max_lr > 0
    power = jnp.where(moving, max_lr, 1) ** weight_lr_power
    weight = jnp.where(moving, power, jnp.where(weight_lr_power > 0, 0, 1))
    weight_sum = weight_sum + weight
    positive = weight_sum > 0
    share = jnp.where(positive, weight / jnp.where(positive, weight_sum, 1), 0)
    return {"share": share, "weight_sum": weight_sum}


def average_scalars(b1_before: jax.Array, **_: jax.Array) -> Scalars:
    """How far the average is beyond y, in distances from z to y; y itself counts for a mixture of 0."""
    mixed = b1_before > 0
    return {"lead": jnp.where(mixed, (1 - b1_before) / jnp.where(mixed, b1_before, 1), 0)}


def mixture_scalars(b1_before: jax.Array, b1: jax.Array, share: jax.Array) -> Scalars:
    """The same, and how far the next y is on the way from the old average to the new z."""
    return {**average_scalars(b1_before), "pace": share + (1 - b1) * (1 - share)}


def schedule_free_rule(u: jax.Array, z: jax.Array, y: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Defazio et al. 2024, equations 3 to 5."""
    # The same as x = (y - (1 - b1) * z) / b1, then x + share * (z - x), in 10 operations, not 15.
    ahead = s.lead * (y - z)
    x = y + ahead
    # In range, or differences would be NaN; an update that is not finite shows as NaN.
    limit = jnp.finfo(z.real.dtype).max / 16
    z = within(z + u, limit) + (u - u)
    return ahead + s.pace * (z - x), z


def average_rule(y: jax.Array, z: jax.Array, s: Any) -> jax.Array:
    """x = (y - (1 - b1) * z) / b1."""
    return y + s.lead * (y - z)


@transformation(steps="step_count", reports=("learning_rate", "share"), elementwise=True)
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: Rate,
    b1: Mixture = 0.9,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: Any = None,
) -> Pair:
    """Takes gradients at `y`, between the base optimizer's points `z` and their average `x`.

        z = z + u                                         u: the update of `base_optimizer`
        x = x + share * (z - x)                           share = weight / sum of weights
        y = b1 * x + (1 - b1) * z                         weight = (largest rate so far) ^ weight_lr_power

    The parameters are y. Evaluate the model at x, which `schedule_free_eval_params(state, params)` returns.

    Args:
      base_optimizer: takes the steps, with the same learning rate and no momentum of its own.
      learning_rate: the rate of `base_optimizer`, for the weights: a number >= 0, or a schedule that warms up
        and does not decay, evaluated at the count of steps taken, from 0.
      b1: in (0, 1]; replaces momentum. At 0 the average could not be computed from the parameters.
      weight_lr_power: >= 0; 0 weights all points equally.
      state_dtype: dtype of z; float32 at least by default, since it is a sum of small steps.

    Reports `learning_rate` and `share`. Source: Defazio et al. 2024, arXiv:2405.15682.

    >>> import gradflow as gf
    >>> print(gf.schedule_free(gf.sgd(0.1), 0.1, b1=0.95))
    schedule_free(sgd(0.1), 0.1, b1=0.95)
    """

    def init(params: Params) -> OptState:
        base_state = base_optimizer.init(params)  # raises for leaves that are not numbers
        dtype = accumulator(jax.tree.leaves(params), real=True)
        return ScheduleFreeState(
            b1=zero_scalar(params, dtype) + jnp.asarray(b1, dtype),
            weight_sum=zero_scalar(params, dtype),
            step_count=zero_scalar(params),
            max_lr=zero_scalar(params, dtype),
            base_optimizer_state=base_state,
            z=jax.tree.map(lambda p: jnp.array(p, _dtype_of_z(p, state_dtype), copy=True), params),
        )

    def update(
        updates: Updates, state: ScheduleFreeState, params: Params, **extra: Any
    ) -> tuple[Updates, ScheduleFreeState]:
        updates, base_state = base_optimizer.update(updates, state.base_optimizer_state, params, **extra)
        dtype = state.max_lr.dtype
        max_lr = jnp.maximum(state.max_lr, jnp.asarray(learning_rate, dtype))
        scalars = schedule_free_scalars(max_lr, state.weight_sum, jnp.asarray(weight_lr_power, dtype))
        updates, z = leafwise(
            schedule_free_rule, (updates, state.z, params), mixture_scalars,
            share=scalars["share"], b1=b1, b1_before=state.b1,
        )  # fmt: skip
        report("learning_rate", learning_rate)
        report("share", scalars["share"])
        return updates, ScheduleFreeState(
            b1=jnp.zeros_like(state.b1) + jnp.asarray(b1, dtype),
            weight_sum=scalars["weight_sum"],
            step_count=increment(state.step_count),
            max_lr=max_lr,
            base_optimizer_state=base_state,
            z=z,
        )

    return init, update


def _dtype_of_z(p: jax.Array, state_dtype: Any) -> Any:
    return at_least_float32(p.dtype) if state_dtype is None else moment_dtype(p.dtype, state_dtype)


def schedule_free_eval_params(state: OptState, params: Params) -> Params:
    """Returns the averages at which to evaluate a model trained with `schedule_free`.

    They have the parameters' dtypes.

    Args:
      state: the state of `schedule_free`, or one that contains it. It may contain several, each for its own
        leaves of the parameters; the other leaves are returned unchanged.
      params: the current values of the parameters that `state` was made for.

    Raises ValueError for a state without averages, and where two states average the same leaf.

    >>> import gradflow as gf
    >>> tx = gf.schedule_free_sgd(0.1)
    >>> float(gf.schedule_free_eval_params(tx.init(2.0), 2.0))
    2.0
    """
    averages_at = averaged("schedule_free_eval_params", state, params, (ScheduleFreeState,))
    if averages_at is None:
        raise ValueError(
            "schedule_free_eval_params: argument 'state' must be the state of a schedule_free "
            f"transformation, or contain one; got {describe(state)}. The order is (state, params)"
        )
    return averages_at


def _read(params: list[Any], z: list[Any], state: ScheduleFreeState) -> list[Any]:
    (found,) = leafwise(average_rule, (params, z), average_scalars, b1_before=state.b1)
    return list(found)


averages(ScheduleFreeState, "z", _read)
