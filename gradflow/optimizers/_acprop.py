"""ACProp: the gradient over the standard deviation of earlier gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._kernel_hints._order import cpu_barrier, written_after
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adabelief import ScaleByBeliefState
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


def acprop_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements, and the bias correction of the `count` earlier gradients."""
    c2 = 1 - b2
    first = count == 0
    bias = one_minus_power(c2, jnp.maximum(count, 1))
    return {"c1": 1 - b1, "c2": c2, "first": first, "debias2": 1 / bias}


def acprop_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Zhuang et al. 2021, Algorithm 2."""
    divisor = jnp.where(s.first, jnp.ones_like(nu), safe_sqrt(s.debias2 * nu)) + s.eps
    u = cpu_barrier(bounded(g) / divisor)
    nu = written_after(s.b2 * nu + (s.c2 * bounded_square(g, mu) + s.eps_root), u)
    return u, written_after(s.b1 * mu + s.c1 * bounded(g), nu), nu


@transformation(packable=True)
def scale_by_acprop(
    b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-16, eps_root: NonNegative = 1e-16
) -> Pair:
    """Divides the gradient by the root of the averaged squared deviation of earlier gradients.

        u = g / (sqrt(nu / (1 - b2^(t-1))) + eps)         u = g / (1 + eps) at the first step
        nu = b2 * nu + (1 - b2) * |g - mu|^2 + eps_root
        mu = b1 * mu + (1 - b1) * g

    Args:
      b1: decay of the average that gradients are compared with, in [0, 1).
      b2: decay of the average of squares, in [0, 1).
      eps: added outside the root, >= 0.
      eps_root: added to `nu` at every step, >= 0.

    The divisor does not depend on `g`: after zero gradients only `eps_root` and `eps` bound it from below.
    Their defaults are too small for float16. The update has no momentum.
    Source: Zhuang et al. 2021, arXiv:2110.05454.
    """

    def init(params: Params) -> OptState:
        return ScaleByBeliefState(zero_scalar(params), first_moment(params), second_moment(params))

    def update(
        updates: Updates, state: ScaleByBeliefState, params: Params | None = None
    ) -> tuple[Updates, ScaleByBeliefState]:
        u, mu, nu = leafwise(
            acprop_rule, (updates, state.mu, state.nu), acprop_scalars,
            count=state.count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByBeliefState(increment(state.count), mu, nu)

    return init, update


@transformation
def acprop(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """ACProp: `scale_by_acprop`, decoupled weight decay as in `adamw`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_acprop` and `adamw`.
    """
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
