"""MoMo-Adam: Adam with a Polyak step on an averaged linear model of the loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._extra_arguments import loss_value
from gradflow._calls._reports import report
from gradflow._coding._leaves import decoded
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, Finite, NonNegative, NonNegativeRate
from gradflow._kernel_hints._order import cpu_barrier, gpu_barrier
from gradflow._rules._leafwise import Scalars, as_scalar, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import scalar_dtype
from gradflow.optimizers._momo import Model, average, loss_average, model_step


class MomoAdamState(NamedTuple):
    """Averages of gradients, squares, losses, products <g, p>; the lower bound of the loss; steps taken."""

    exp_avg: Mean
    exp_avg_sq: Square
    barf: jax.Array
    gamma: jax.Array
    lb: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


def momo_adam_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The weights of a new gradient and of its square."""
    return {"c1": 1 - b1, "c2": 1 - b2}


def momo_adam_average_rule(
    g: jax.Array, exp_avg: jax.Array, exp_avg_sq: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """The gradient as Adam's moments take it, and these."""
    exp_avg, exp_avg_sq = s.b1 * exp_avg + s.c1 * bounded(g), s.b2 * exp_avg_sq + s.c2 * bounded_square(g)
    return bounded(g), *gpu_barrier((exp_avg, exp_avg_sq))


def direction_scalars(b2: jax.Array, count: jax.Array, **_: jax.Array) -> Scalars:
    """The sum of the weights in the average square."""
    return {"corr2": one_minus_power(1 - b2, count)}


def direction_rule(exp_avg: jax.Array, exp_avg_sq: jax.Array, s: Any) -> jax.Array:
    """The average gradient in units of Adam's denominator."""
    return exp_avg / (safe_sqrt(exp_avg_sq / s.corr2) + s.eps)


def momo_adam_rule(
    g: jax.Array, exp_avg: jax.Array, exp_avg_sq: jax.Array, p: jax.Array, s: Any
) -> jax.Array:
    """Schaipp et al. 2023, Algorithm 2: `p + u = (p - step * direction) / shrink`."""
    del g
    # Again from operands that XLA treats as distinct, or on a CPU it would keep a whole model of directions.
    direction = direction_rule(*cpu_barrier((exp_avg, exp_avg_sq)), s)
    return -(s.step * direction + s.decay * p) / s.shrink


@transformation(reports=("step", "lower_bound"), elementwise=True)
def momo_adam(
    learning_rate: NonNegativeRate = 1e-2,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    lower_bound: Finite = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
) -> Pair:
    """Adam whose step reaches `lower_bound` on an averaged linear model of the loss.

        d = b1 * d + (1 - b1) * g, likewise barf of value, gamma of <g, p>;  v = b2 * v + (1 - b2) * |g|^2
        w = 1 - b1^t, shrink = 1 + learning_rate * weight_decay, D = sqrt(v / (1 - b2^t)) + eps
        gap = max(0, shrink * (barf - gamma - w * lb) + <d, p>)
        step = min(learning_rate / w, gap / <d, d / D>)
        p = (p - step * d / D) / shrink

    Args:
      learning_rate: a number >= 0 or a schedule: the longest step. Too large is safer than too small.
      b1: decay of the averages, in [0, 1).
      b2: decay of the average square, in [0, 1).
      eps: added outside the root, >= 0.
      lower_bound: of the loss; 0 is right for most losses.
      weight_decay: >= 0.
      adapt_lower_bound: estimates the lowest loss during training, never below `lower_bound`.

    `update` needs `params` and the extra argument `value`, as in `momo`. Reports `step` and `lower_bound`.
    Raises ValueError inside `shard_map`. Source: Schaipp et al. 2023, arXiv:2305.07583.
    """

    def init(params: Params) -> OptState:
        dtype = scalar_dtype(params)
        exp_avg = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        lb = zero_scalar(params, dtype) + as_scalar(lower_bound, dtype)
        barf, gamma = zero_scalar(params, dtype), zero_scalar(params, dtype)
        return MomoAdamState(exp_avg, second_moment(params), barf, gamma, lb, zero_scalar(params))

    def update(
        updates: Updates, state: MomoAdamState, params: Params, *, value: Any
    ) -> tuple[Updates, MomoAdamState]:
        refuse_varying("a sum", updates, params)
        count, dtype = increment(state.count), state.barf.dtype
        rate, floor, decay = (as_scalar(number, dtype) for number in (learning_rate, lower_bound, b1))
        shrink = 1 + rate * as_scalar(weight_decay, dtype)
        taken, exp_avg, exp_avg_sq = leafwise(
            momo_adam_average_rule, (updates, state.exp_avg, state.exp_avg_sq), momo_adam_scalars,
            b1=b1, b2=b2,
        )  # fmt: skip
        barf = loss_average(loss_value(value).astype(dtype), state.barf, decay)
        # What an outlier adds to both products cancels only if both take the same of it.
        gamma = average(tree.vdot(taken, params).real.astype(dtype), state.gamma, decay)
        mean = decoded(exp_avg)
        (direction,) = leafwise(
            direction_rule, (mean, exp_avg_sq), direction_scalars, b2=b2, count=count, eps=eps
        )
        square = tree.vdot(mean, direction).real.astype(dtype)
        product = tree.vdot(mean, params).real.astype(dtype)
        weight = one_minus_power(jnp.asarray(1 - decay), count)
        lb = state.lb if adapt_lower_bound else tree.full_like(state.lb, floor)
        step, lb = model_step(
            Model(barf, gamma, product, safe_sqrt(square), weight), lb, floor, rate, shrink,
            adapt=adapt_lower_bound,
        )  # fmt: skip
        report("step", step)
        report("lower_bound", lb)
        (u,) = leafwise(
            momo_adam_rule, (updates, exp_avg, exp_avg_sq, params), direction_scalars,
            step=step, decay=shrink - 1, shrink=shrink, b2=b2, count=count, eps=eps,
        )  # fmt: skip
        return u, MomoAdamState(exp_avg, exp_avg_sq, barf, gamma, lb, count)

    return init, update
