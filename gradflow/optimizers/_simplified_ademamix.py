"""Simplified AdEMAMix: one summed momentum plus the gradient."""

from typing import Any, NamedTuple

import jax

from gradflow import tree
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleBySimplifiedAdEMAMixState(NamedTuple):
    """Steps taken, the decaying sum of gradients, and the average of their squares."""

    t: jax.Array
    m: Mean
    n: Square


def simplified_ademamix_scalars(t: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The second decay's complement and bias correction at step `t`, which begins at 1."""
    c2 = 1 - b2
    return {"c2": c2, "debias2": 1 / one_minus_power(c2, t)}


def simplified_ademamix_rule(g: jax.Array, m: jax.Array, n: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Morwani et al. 2025, Algorithm 1."""
    m = s.b1 * m + bounded(g)
    n = s.b2 * n + s.c2 * bounded_square(g)
    u = (m + s.alpha * bounded(g)) / (safe_sqrt(s.debias2 * n + s.eps_root) + s.eps)
    return u, m, n


@transformation(steps="t", packable=True)
def scale_by_simplified_ademamix(
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: NonNegative = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
) -> Pair:
    """Divides a summed momentum plus the gradient by the root of the averaged square.

        m = b1 * m + g
        n = b2 * n + (1 - b2) * |g|^2
        u = (m + alpha * g) / (sqrt(n / (1 - b2^t) + eps_root) + eps)

    Args:
      b1: decay of the sum, in [0, 1). A constant gradient counts `1 / (1 - b1)` times, so the learning rate
        is smaller than Adam's by that factor.
      b2: decay of the second moment, in [0, 1).
      alpha: weight of the gradient itself, >= 0; 0 suits large batches.
      eps: added outside the root, >= 0.
      eps_root: added inside the root, >= 0.

    The sum is held in float32 at least. Source: Morwani et al. 2025, arXiv:2502.02431.
    """

    def init(params: Params) -> OptState:
        m = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        return ScaleBySimplifiedAdEMAMixState(zero_scalar(params), m, second_moment(params))

    def update(
        updates: Updates, state: ScaleBySimplifiedAdEMAMixState, params: Params | None = None
    ) -> tuple[Updates, ScaleBySimplifiedAdEMAMixState]:
        t = increment(state.t)
        u, m, n = leafwise(
            simplified_ademamix_rule, (updates, state.m, state.n), simplified_ademamix_scalars,
            t=t, b1=b1, b2=b2, alpha=alpha, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleBySimplifiedAdEMAMixState(t, m, n)

    return init, update


@transformation
def simplified_ademamix(
    learning_rate: Rate,
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: NonNegative = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """Simplified AdEMAMix: `scale_by_simplified_ademamix`, decoupled weight decay, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others as in `scale_by_simplified_ademamix` and `adamw`, the source as in the former.
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
