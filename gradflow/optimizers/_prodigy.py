"""Prodigy: Adam whose learning rate is an estimate of the distance to the solution."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, GrowthLimit, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, as_scalar, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square, Sum, Weights
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._selection._masks import resolve_mask
from gradflow._selection._partial_trees import change_where
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import (
    add_gain,
    bias_factor,
    check_betas,
    grow_estimate,
    scalar_dtype,
    summed,
)


class ProdigyState(NamedTuple):
    """Moments in units of the estimate, the gradients' weighted sum, the first parameters, the estimate."""

    exp_avg: Mean
    exp_avg_sq: Square
    grad_sum: Sum
    params0: Weights
    estim_lr: jax.Array
    numerator_weighted: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


def prodigy_scalars(d: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The weights of a new gradient and of its square in the moments."""
    return {"gain": d * (1 - b1), "gain_sq": d * d * (1 - b2)}


def prodigy_moments_rule(
    g: jax.Array, exp_avg: jax.Array, exp_avg_sq: jax.Array, grad_sum: jax.Array, params0: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Mishchenko & Defazio 2023, Algorithm 4, without the step."""
    exp_avg = s.b1 * exp_avg + s.gain * bounded(g)
    exp_avg_sq = s.b2 * exp_avg_sq + s.gain_sq * bounded_square(g)
    grad_sum = summed(s.b3 * grad_sum, s.weight, g)
    # The copy costs nothing when compiled with donation; without it two states would share a buffer.
    return g, exp_avg, exp_avg_sq, grad_sum, jnp.copy(params0)


def prodigy_step_rule(
    g: jax.Array, exp_avg: jax.Array, exp_avg_sq: jax.Array, p: jax.Array, s: Any
) -> jax.Array:
    """The step of Algorithm 4, with decoupled weight decay."""
    del g
    return -s.rate * (exp_avg / (safe_sqrt(exp_avg_sq) + s.d * s.eps) + s.weight_decay * p)


@transformation(reports=("estim_lr", "learning_rate"), elementwise=True)
def prodigy(
    learning_rate: Rate = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    beta3: Decay | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: MaskOrFn | None = None,
    *,
    use_bias_correction: bool = True,
    growth_rate: GrowthLimit = math.inf,
) -> Pair:
    """Adam with the rate `d * learning_rate`, where d is a growing estimate of the distance.

        rate = d * learning_rate * sqrt(1 - b2^t) / (1 - b1^t)
        weight = d / estim_lr0 * rate
        r = b3 * r + weight * <g, p0 - p>,  grad_sum = b3 * grad_sum + weight * g
        m = b1 * m + (1 - b1) * d * g,  v = b2 * v + (1 - b2) * d^2 * |g|^2
        d = max(d, min(estim_lr_coef * r / |grad_sum|_1, growth_rate * d))
        u = -rate * (m / (sqrt(v) + d * eps) + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule; 1 suits most problems, with the usual decay.
      betas: two numbers in [0, 1).
      beta3: in [0, 1); sqrt(b2) by default.
      estim_lr0: the first d, > 0; it must be below the right rate.
      safeguard_warmup: leaves `learning_rate` out of the weight in `grad_sum`, so that d does not diverge
        during a warm-up.
      weight_decay_mask: where to decay; see `add_decayed_weights`.
      use_bias_correction: False leaves the factor of `b1` and `b2` out of `rate`, the authors' default.
      growth_rate: >= 1, by which d grows at most per step after its first growth; 1.02 is a warm-up.

    While `grad_sum` is 0, d does not change. `partition({"a": prodigy(), "b": prodigy()}, labels)` has an
    estimate for each group. Needs `params`. Raises ValueError inside `shard_map`.
    Source: Mishchenko & Defazio 2023, arXiv:2306.06101.
    """
    check_betas("prodigy", betas)
    b1, b2 = betas

    def init(params: Params) -> OptState:
        if weight_decay_mask is not None:
            resolve_mask(weight_decay_mask, params)  # so that a wrong mask raises here, not at the first step
        dtype = scalar_dtype(params)
        d = zero_scalar(params, dtype) + as_scalar(estim_lr0, dtype)
        zeros = [
            jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params) for _ in range(2)
        ]
        params0 = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        return ProdigyState(
            zeros[0], second_moment(params), zeros[1], params0, d, zero_scalar(params, dtype),
            zero_scalar(params),
        )  # fmt: skip

    def update(updates: Updates, state: ProdigyState, params: Params) -> tuple[Updates, ProdigyState]:
        refuse_varying("a sum", updates, params)
        count, d, dtype = increment(state.count), state.estim_lr, state.estim_lr.dtype
        b3 = safe_sqrt(jnp.asarray(as_scalar(b2, dtype))) if beta3 is None else as_scalar(beta3, dtype)
        rate = d * as_scalar(learning_rate, dtype)
        if use_bias_correction:
            rate = rate * bias_factor(b1, b2, count, dtype)
        # The factor cancels in quotients of the sums; without it they would underflow.
        relative = d / as_scalar(estim_lr0, dtype)
        _, exp_avg, exp_avg_sq, grad_sum, params0 = leafwise(
            prodigy_moments_rule,
            (updates, state.exp_avg, state.exp_avg_sq, state.grad_sum, state.params0), prodigy_scalars,
            summed=True, d=d, b1=b1, b2=b2, b3=b3, weight=relative * (d if safeguard_warmup else rate),
        )  # fmt: skip
        gain = tree.vdot(updates, tree.sub(state.params0, params)).real.astype(dtype)
        numerator = add_gain(b3 * state.numerator_weighted, relative * rate * gain)
        size = tree.norm(grad_sum, 1).astype(dtype)
        # The first growth, from an estimate that is far too small, is free. Finite, so that derivatives are.
        growth = jnp.minimum(as_scalar(growth_rate, dtype), 1e18)
        limit = d * jnp.where(d > as_scalar(estim_lr0, dtype), growth, 1e18)
        d = grow_estimate(d, as_scalar(estim_lr_coef, dtype) * numerator, size, limit)
        report("estim_lr", d)
        report("learning_rate", rate)
        step = {"rate": rate, "d": d, "eps": eps}

        def move(chosen: Updates, decay: Any = weight_decay) -> Updates:
            trees = (chosen, exp_avg, exp_avg_sq, params)
            return leafwise(prodigy_step_rule, trees, weight_decay=decay, **step)[0]

        if weight_decay_mask is None:
            u = move(updates)
        else:
            u = change_where(resolve_mask(weight_decay_mask, params), move, updates, move(updates, 0.0))
        return u, ProdigyState(exp_avg, exp_avg_sq, grad_sum, params0, d, numerator, count)

    return init, update
