"""D-Adaptation: AdamW whose learning rate is a lower bound of the distance to the solution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._coding._leaves import decoded
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative, Rate
from gradflow._kernel_hints._order import in_turn, written_after
from gradflow._platform import by_platform
from gradflow._rules._leafwise import Scalars, as_scalar, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square, Sum
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import (
    InitialPositive,
    add_gain,
    bias_factor,
    check_betas,
    grow_estimate,
    scalar_dtype,
    summed,
)


class DAdaptAdamWState(NamedTuple):
    """Averages of scaled gradients, of squares and of gradients times their rates, and the estimate."""

    exp_avg: Mean
    exp_avg_sq: Square
    grad_sum: Sum
    estim_lr: jax.Array
    numerator_weighted: jax.Array
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count


def dadapt_scalars(rate: jax.Array, b1: jax.Array, b2: jax.Array, b3: jax.Array, **_: jax.Array) -> Scalars:
    """The weights of a new gradient and of its square in the averages."""
    return {"gain": rate * (1 - b1), "gain_sq": 1 - b2, "gain_sum": rate * (1 - b3)}


def dadapt_direction_rule(exp_avg_sq: jax.Array, grad_sum: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average of gradients, in units of the root of the average square before this step."""
    return exp_avg_sq, grad_sum / (safe_sqrt(exp_avg_sq) + s.eps)


def dadapt_sum_rule(g: jax.Array, grad_sum: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The new average of gradients times their rates."""
    return g, summed(s.b3 * grad_sum, s.gain_sum, g)


def dadapt_adamw_rule(
    g: jax.Array, exp_avg: jax.Array, exp_avg_sq: jax.Array, grad_sum: jax.Array, p: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Defazio & Mishchenko 2023, Algorithm 5, with decoupled weight decay."""
    exp_avg = s.b1 * exp_avg + s.gain * bounded(g)
    exp_avg_sq = s.b2 * exp_avg_sq + s.gain_sq * bounded_square(g)
    _, grad_sum = dadapt_sum_rule(g, grad_sum, s)
    u = -(exp_avg / (safe_sqrt(exp_avg_sq) + s.eps) + s.rate * s.weight_decay * p)
    return u, exp_avg, exp_avg_sq, grad_sum


@transformation(reports=("estim_lr", "learning_rate"), elementwise=True)
def dadapt_adamw(
    learning_rate: Rate = 1.0,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    estim_lr0: InitialPositive = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    use_bias_correction: bool = True,
) -> Pair:
    """AdamW with the rate `d * learning_rate`, where d is a growing lower bound of the distance.

        rate = d * learning_rate * sqrt(1 - b2^t) / (1 - b1^t),  b3 = sqrt(b2)
        r = b3 * r + (1 - b3) * rate * <g, grad_sum / (sqrt(v) + eps)>       with the old grad_sum and v
        m = b1 * m + (1 - b1) * rate * g,  v = b2 * v + (1 - b2) * |g|^2
        grad_sum = b3 * grad_sum + (1 - b3) * rate * g
        d = max(d, r / ((1 - b3) * |grad_sum|_1))
        u = -m / (sqrt(v) + eps) - rate * weight_decay * p

    Args:
      learning_rate: a number >= 0 or a schedule; 1 suits most problems, with the usual decay.
      betas: two numbers in [0, 1).
      estim_lr0: the first d, > 0; it must be below the right rate.
      use_bias_correction: False leaves the factor of `b1` and `b2` out of `rate`, the authors' default.

    While `grad_sum` is 0, d does not change. Needs `params`. Raises ValueError inside `shard_map`.
    Source: Defazio & Mishchenko 2023, arXiv:2301.07733.
    """
    check_betas("dadapt_adamw", betas)
    b1, b2 = betas

    def init(params: Params) -> OptState:
        dtype = scalar_dtype(params)
        d = zero_scalar(params, dtype) + as_scalar(estim_lr0, dtype)
        zeros = [
            jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params) for _ in range(2)
        ]
        return DAdaptAdamWState(
            zeros[0], second_moment(params), zeros[1], d, zero_scalar(params, dtype), zero_scalar(params)
        )

    def update(updates: Updates, state: DAdaptAdamWState, params: Params) -> tuple[Updates, DAdaptAdamWState]:
        refuse_varying("a sum", updates, params)
        count, d, dtype = increment(state.count), state.estim_lr, state.estim_lr.dtype
        b3, rest = b3_scalars(as_scalar(b2, dtype))
        rate = d * as_scalar(learning_rate, dtype)
        if use_bias_correction:
            rate = rate * bias_factor(b1, b2, count, dtype)
        before = decoded((state.exp_avg_sq, state.grad_sum))
        _, direction = leafwise(dadapt_direction_rule, before, summed=True, eps=eps)
        gain = tree.vdot(updates, direction).real.astype(dtype)
        numerator = add_gain(b3 * state.numerator_weighted, rest * rate * gain)

        def first_size(grad_sum: Any) -> jax.Array:
            hyper = {"rate": rate, "b1": b1, "b2": b2, "b3": b3}
            _, new = leafwise(dadapt_sum_rule, (updates, grad_sum), dadapt_scalars, **hyper)
            return tree.norm(new, 1).astype(dtype)

        # A GPU adds up before it updates. What a kernel adds up, too, it cannot write in place: it copied an
        # array per leaf, and held one. Now it reads three more, and moves 12 arrays per leaf, not 11.
        nothing = lambda _: jnp.zeros((), dtype)  # noqa: E731
        first = by_platform(before[1], cpu=nothing, accelerator=first_size, tpu=nothing)
        # The gain reads the old averages.
        decay, step = (written_after(number, gain) for number in (as_scalar(b2, dtype), rate))
        _, (decay, step) = in_turn([gain, first], [jnp.asarray(decay), step])
        u, exp_avg, exp_avg_sq, grad_sum = leafwise(
            dadapt_adamw_rule,
            (updates, state.exp_avg, state.exp_avg_sq, state.grad_sum, params), dadapt_scalars,
            rate=step, b1=b1, b2=decay, b3=b3, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip
        last = lambda _, size: size  # noqa: E731
        size = by_platform(
            first, tree.norm(grad_sum, 1).astype(dtype), cpu=last, accelerator=lambda size, _: size, tpu=last
        )
        d = grow_estimate(d, numerator, rest * size)
        report("estim_lr", d)
        report("learning_rate", step)
        return u, DAdaptAdamWState(exp_avg, exp_avg_sq, grad_sum, d, numerator, count)

    return init, update


@jax.jit
def b3_scalars(b2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sqrt(b2)` and its complement, which keeps its digits near 1."""
    b3 = safe_sqrt(b2)
    return b3, (1 - b2) / (1 + b3)
