"""MADGRAD: dual averaging with a cube root, and momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, NonNegativeRate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, saturated
from gradflow._rules._roles import Sum, Weights
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights


class MadgradState(NamedTuple):
    """Steps taken, the weighted sums of squares and of gradients, and the first parameters."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    grad_sum_sq: Sum
    s: Sum
    x0: Weights


def madgrad_scalars(
    count: jax.Array, learning_rate: jax.Array, momentum: jax.Array, eps: jax.Array
) -> Scalars:
    """The weight of step `count`, which begins at 1, and the share of the distance to step."""
    rate = learning_rate + eps
    return {"weight": rate * jnp.sqrt(count.astype(rate.dtype)), "pace": 1 - momentum}


def madgrad_rule(
    g: jax.Array, grad_sum_sq: jax.Array, total: jax.Array, x0: jax.Array, p: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Defazio & Jelassi 2021, Algorithm 1."""
    grad_sum_sq = saturated(grad_sum_sq) + s.weight * bounded_square(g)
    total = total + s.weight * bounded(g)
    # The cube root's slope is infinite at 0.
    root = _cube_root(jnp.maximum(grad_sum_sq, jnp.finfo(grad_sum_sq.dtype).tiny)) + s.eps
    target = x0 - total / root
    # The copy costs nothing when compiled with donation; without it two states would share a buffer.
    return s.pace * (target - p), grad_sum_sq, total, jnp.copy(x0)


def _cube_root(x: jax.Array) -> jax.Array:
    """The cube root of positive numbers: XLA on CPU does not vectorize `jnp.cbrt`.

    One Newton step restores the digits that the logarithm loses.
    """
    root = jnp.exp(jnp.log(x) / 3)
    return root - (root - x / root / root) / 3  # its derivative squares the square, which might underflow


@transformation(reports=("learning_rate",), elementwise=True)
def scale_by_madgrad(learning_rate: NonNegativeRate, momentum: Decay = 0.9, eps: NonNegative = 1e-6) -> Pair:
    """Steps by dual averaging with momentum. It includes the minus sign: no learning rate follows.

        weight = (learning_rate + eps) * sqrt(t)
        grad_sum_sq = grad_sum_sq + weight * |g|^2
        s = s + weight * g
        u = (1 - momentum) * (x0 - s / (cbrt(grad_sum_sq) + eps) - p)

    Args:
      learning_rate: a number >= 0 or a schedule.
      momentum: share of the distance to the new point that is left, in [0, 1).
      eps: >= 0, added to the root, and to the learning rate as in the authors' code.

    `x0` are the parameters at `init`; `s` is held in float32 at least. Needs `params`.
    Source: Defazio & Jelassi 2021, arXiv:2101.11075.
    """

    def init(params: Params) -> OptState:
        total = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        x0 = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        return MadgradState(zero_scalar(params), second_moment(params), total, x0)

    def update(updates: Updates, state: MadgradState, params: Params) -> tuple[Updates, MadgradState]:
        report("learning_rate", learning_rate)
        count = increment(state.count)
        u, grad_sum_sq, total, x0 = leafwise(
            madgrad_rule, (updates, state.grad_sum_sq, state.s, state.x0, params), madgrad_scalars,
            count=count, learning_rate=learning_rate, momentum=momentum, eps=eps,
        )  # fmt: skip
        return u, MadgradState(count, grad_sum_sq, total, x0)

    return init, update


@transformation
def madgrad(
    learning_rate: NonNegativeRate,
    momentum: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    eps: NonNegative = 1e-6,
) -> GradientTransformation:
    """MADGRAD: an L2 penalty, then `scale_by_madgrad`.

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: weight of the penalty, >= 0; smaller than for other optimizers, and often 0.

    The others and the source as in `scale_by_madgrad`.
    """
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))
