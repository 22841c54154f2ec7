"""MoMo: momentum with a Polyak step on an averaged linear model of the loss."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._extra_arguments import loss_value
from gradflow._calls._reports import report
from gradflow._coding._leaves import decoded
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, Finite, NonNegative, NonNegativeRate
from gradflow._rules._leafwise import Scalars, as_scalar, leafwise
from gradflow._rules._math import largest_bounded
from gradflow._rules._mesh_axes import global_norm, refuse_varying
from gradflow._rules._roles import Mean
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import scalar_dtype


class MomoState(NamedTuple):
    """Averages of gradients, losses and products <g, p>; the lower bound of the loss; steps taken."""

    exp_avg: Mean
    barf: jax.Array
    gamma: jax.Array
    lb: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


class Model(NamedTuple):
    """The average model `barf - gamma + <exp_avg, x>` at the parameters, and the norm of its gradient.

    `weight` is the sum of the weights of the averages.
    """

    barf: jax.Array
    gamma: jax.Array
    product: jax.Array
    norm: jax.Array
    weight: Any


@functools.partial(jax.jit, static_argnames="adapt")
def model_step(
    model: Model, lb: jax.Array, floor: jax.Array, rate: jax.Array, shrink: jax.Array, *, adapt: bool
) -> tuple[jax.Array, jax.Array]:
    """The step at which the model reaches `lb`, at most `rate`, and the next `lb`.

    `shrink` is `1 + rate * weight_decay`, by which the proximal step divides.
    """
    barf, gamma, product, norm, weight = model
    cap = shrink * (barf - gamma) + product
    if adapt:
        lowered = jnp.maximum(cap / (2 * shrink * weight), floor)
        lb = jnp.where(cap < shrink * weight * lb, lowered, lb)
    usable = (norm > 0) & jnp.isfinite(norm) & jnp.isfinite(cap)
    # Divided by the norm twice, because its square may overflow. The barrier keeps XLA from squaring.
    size = jnp.where(usable, norm, 1)
    gap = jnp.maximum(jnp.where(usable, cap, 0) - shrink * weight * lb, 0)
    share = jax.lax.optimization_barrier(gap / size)
    step = jnp.where(usable, jnp.minimum(rate / weight, share / size), 0)
    # A gradient that was not finite: a step of 0 would end training in silence.
    step = jnp.where(jnp.isnan(norm), norm, step)
    if adapt:
        reached = (barf + product - gamma - 0.5 * step * size * size) / weight
        lb = jnp.where(usable, jnp.maximum(reached, floor), lb)
    return step, lb


def average(new: jax.Array, old: jax.Array, decay: jax.Array) -> jax.Array:
    """A decaying average that ignores a new value that is not finite."""
    return jnp.where(jnp.isfinite(new), decay * old + (1 - decay) * new, old)


def loss_average(value: jax.Array, old: jax.Array, decay: jax.Array) -> jax.Array:
    """`average` of losses, which ignores those beyond 2^60, too: one of 1e38 would rule for 800 steps."""
    return jnp.where(jnp.abs(value) <= largest_bounded(value.dtype), average(value, old, decay), old)


def momo_scalars(beta: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of a new gradient."""
    return {"gain": 1 - beta}


def momo_average_rule(g: jax.Array, exp_avg: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average of gradients, NaN after one that is not finite."""
    return g, s.beta * exp_avg + s.gain * g + (g - g)


def momo_rule(g: jax.Array, exp_avg: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """Schaipp et al. 2023, Algorithm 1: `p + u = (p - step * exp_avg) / shrink`."""
    del g
    return -(s.step * exp_avg + s.decay * p) / s.shrink


@transformation(reports=("step", "lower_bound"), elementwise=True)
def momo(
    learning_rate: NonNegativeRate = 1.0,
    beta: Decay = 0.9,
    lower_bound: Finite = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
) -> Pair:
    """SGD with momentum whose step reaches `lower_bound` on an averaged linear model of the loss.

        d = beta * d + (1 - beta) * g, likewise barf of value, gamma of <g, p>; no decay at step 1
        shrink = 1 + learning_rate * weight_decay
        gap = max(0, shrink * (barf - gamma - lb) + <d, p>)
        step = min(learning_rate, gap / |d|^2)
        p = (p - step * d) / shrink

    Args:
      learning_rate: a number >= 0 or a schedule: the longest step. Too large is safer than too small.
      beta: decay of the averages, in [0, 1).
      lower_bound: of the loss; 0 is right for most losses.
      weight_decay: >= 0.
      adapt_lower_bound: estimates the lowest loss during training, never below `lower_bound`.

    `update` needs `params` and the extra argument `value`, the loss at `params`; one that is not finite, or
    beyond 2^60, is left out. `exp_avg` is held in float32 at least, because `gap` is a difference. Reports
    `step` and `lower_bound`. Raises ValueError inside `shard_map`.
    Source: Schaipp et al. 2023, arXiv:2305.07583.
    """

    def init(params: Params) -> OptState:
        dtype = scalar_dtype(params)
        exp_avg = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        lb = zero_scalar(params, dtype) + as_scalar(lower_bound, dtype)
        barf, gamma = zero_scalar(params, dtype), zero_scalar(params, dtype)
        return MomoState(exp_avg, barf, gamma, lb, zero_scalar(params))

    def update(
        updates: Updates, state: MomoState, params: Params, *, value: Any
    ) -> tuple[Updates, MomoState]:
        refuse_varying("a sum", updates, params)
        dtype = state.barf.dtype
        rate, floor = as_scalar(learning_rate, dtype), as_scalar(lower_bound, dtype)
        shrink = 1 + rate * as_scalar(weight_decay, dtype)
        decay = jnp.where(state.count == 0, 0, as_scalar(beta, dtype))
        _, exp_avg = leafwise(momo_average_rule, (updates, state.exp_avg), momo_scalars, beta=decay)
        barf = loss_average(loss_value(value).astype(dtype), state.barf, decay)
        gamma = average(tree.vdot(updates, params).real.astype(dtype), state.gamma, decay)
        mean = decoded(exp_avg)
        product, norm = (
            tree.vdot(mean, params).real.astype(dtype),
            global_norm(mean, (), beside=True).astype(dtype),
        )
        lb = state.lb if adapt_lower_bound else tree.full_like(state.lb, floor)
        one = jnp.ones((), dtype)
        step, lb = model_step(
            Model(barf, gamma, product, norm, one), lb, floor, rate, shrink, adapt=adapt_lower_bound
        )
        report("step", step)
        report("lower_bound", lb)
        u = leafwise(momo_rule, (updates, exp_avg, params), step=step, decay=shrink - 1, shrink=shrink)[0]
        return u, MomoState(exp_avg, barf, gamma, lb, increment(state.count))

    return init, update
