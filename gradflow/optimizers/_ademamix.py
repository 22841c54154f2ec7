"""AdEMAMix: Adam with a second, slower momentum."""

from typing import Any, NamedTuple

import jax

from gradflow import tree
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import adam_scalars
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByAdemamixState(NamedTuple):
    """Steps taken (twice), the fast and the slow average of the gradient, and that of its square."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    count_m2: jax.Array
    m1: Mean
    m2: Mean
    nu: Square


def ademamix_scalars(
    count: jax.Array, b1: jax.Array, b2: jax.Array, b3: jax.Array, **_: jax.Array
) -> Scalars:
    """Adam's scalars, and the complement of the slow decay."""
    return {**adam_scalars(count, b1, b2), "c3": 1 - b3}


@traced_once
def ademamix_rule(g: jax.Array, m1: jax.Array, m2: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Pagliardini et al. 2024, Algorithm 1; the slow average has no bias correction."""
    m1 = s.b1 * m1 + s.c1 * bounded(g)
    m2 = s.b3 * m2 + s.c3 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    u = (s.debias1 * m1 + s.alpha * m2) / (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)
    return u, m1, m2, nu


@transformation(packable=True)
def scale_by_ademamix(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    alpha: NonNegative = 6.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
) -> Pair:
    """Adds a slow momentum to the fast one of `scale_by_adam`.

        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3 * m2 + (1 - b3) * g
        nu = b2 * nu + (1 - b2) * |g|^2
        u = (m1 / (1 - b1^t) + alpha * m2) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Args:
      b1: decay of the fast momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      b3: decay of the slow momentum, in [0, 1); the paper warms it up with a schedule.
      alpha: weight of the slow momentum, >= 0; the paper warms it up as well.
      eps: added outside the root, >= 0.
      eps_root: added inside the root, >= 0.
      mu_dtype: dtype of both momenta; by default the parameters', and float32 at least for the slow one.

    Source: Pagliardini et al. 2024, arXiv:2409.03137.
    """

    def init(params: Params) -> OptState:
        slow = jax.tree.map(lambda p: tree.zeros_like(p, mu_dtype or at_least_float32(p.dtype)), params)
        return ScaleByAdemamixState(
            zero_scalar(params),
            zero_scalar(params),
            first_moment(params, mu_dtype),
            slow,
            second_moment(params),
        )

    def update(
        updates: Updates, state: ScaleByAdemamixState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdemamixState]:
        count = increment(state.count)
        u, m1, m2, nu = leafwise(
            ademamix_rule, (updates, state.m1, state.m2, state.nu), ademamix_scalars,
            count=count, b1=b1, b2=b2, b3=b3, alpha=alpha, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByAdemamixState(count, increment(state.count_m2), m1, m2, nu)

    return init, update


@transformation
def ademamix(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    alpha: NonNegative = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """AdEMAMix: `scale_by_ademamix`, decoupled weight decay as in `adamw`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_ademamix` and `adamw`.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
