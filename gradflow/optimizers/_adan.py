"""Adan: Adam that also averages the change of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._kernel_hints._order import written_after
from gradflow._kernel_hints._placement import in_place_of
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByAdanState(NamedTuple):
    """The averages of gradient, change and square, the last gradient, and steps taken."""

    m: Mean
    v: Mean
    n: Square
    g: Mean
    t: jax.Array


def adan_scalars(
    t: jax.Array, b1: jax.Array, b2: jax.Array, b3: jax.Array, official: jax.Array, **_: jax.Array
) -> Scalars:
    """The decays' complements, the bias corrections of step `t` (from 1), and the weight of the change."""
    c1, c2, c3 = 1 - b1, 1 - b2, 1 - b3
    weight, debias2 = jnp.where(official > 0, b2, c2), 1 / one_minus_power(c2, t)
    return {
        "c1": c1,
        "c2": c2,
        "c3": c3,
        "debias1": 1 / one_minus_power(c1, t),
        "debias3": 1 / one_minus_power(c3, t),
        "weight": weight,
        "weight_debias2": weight * debias2,
        "changed": jnp.where(t > 1, jnp.ones_like(c1), jnp.zeros_like(c1)),
    }


def adan_rule(
    g: jax.Array, m: jax.Array, v: jax.Array, n: jax.Array, last: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Xie et al. 2022, Algorithm 1."""
    change = s.changed * (bounded(g) - last)
    m = s.b1 * m + s.c1 * bounded(g)
    v = s.b2 * v + s.c2 * change
    n = s.b3 * n + s.c3 * bounded_square(g, -s.weight * change)
    ahead = s.debias1 * m + s.weight_debias2 * v
    kept = in_place_of(last, written_after(bounded(g), v, n))
    return ahead / (safe_sqrt(s.debias3 * n + s.eps_root) + s.eps), m, v, n, kept


@transformation(steps="t", packable=True)
def scale_by_adan(
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    *,
    official_scaling: bool = False,
) -> Pair:
    """Divides a Nesterov momentum by the root of its averaged square.

        d = g - g_before, 0 at the first step
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * |g + w * d|^2
        u = (m / (1 - b1^t) + w * v / (1 - b2^t)) / (sqrt(n / (1 - b3^t) + eps_root) + eps)

    Args:
      b1: decay of the gradient's average, in [0, 1).
      b2: decay of the change's average, in [0, 1).
      b3: decay of the square's average, in [0, 1).
      eps: added outside the root, >= 0.
      eps_root: added inside the root, >= 0.
      official_scaling: True has `w = b2`, as the paper; False has `w = 1 - b2`, as Optax.

    The decays are one minus the paper's. Source: Xie et al. 2022, arXiv:2208.06677.
    """

    def init(params: Params) -> OptState:
        m, v, last = (first_moment(params) for _ in range(3))
        return ScaleByAdanState(m, v, second_moment(params), last, zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByAdanState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdanState]:
        t = increment(state.t)
        u, m, v, n, last = leafwise(
            adan_rule, (updates, state.m, state.v, state.n, state.g), adan_scalars,
            t=t, b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root, official=official_scaling,
        )  # fmt: skip
        return u, ScaleByAdanState(m, v, n, last, t)

    return init, update


@transformation
def adan(
    learning_rate: Rate,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    official_scaling: bool = False,
) -> GradientTransformation:
    """Adan: `scale_by_adan`, decoupled weight decay as in `adamw`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_adan` and `adamw`. The authors divide the new parameters by
    `1 + learning_rate * weight_decay` instead, which agrees to first order.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root, official_scaling=official_scaling),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
