"""LaProp: Adam that divides the gradient by its root mean square before it averages."""

from typing import Any

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState, adam_scalars
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


def laprop_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Ziyin et al. 2020, Algorithm 1."""
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    mu = s.b1 * mu + s.c1 * (bounded(g) / (safe_sqrt(s.debias2 * nu) + s.eps))
    return s.debias1 * mu, mu, nu


@transformation(packable=True)
def scale_by_laprop(b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-15, mu_dtype: Any = None) -> Pair:
    """Averages the gradient after it is divided by the root of its averaged square.

        nu = b2 * nu + (1 - b2) * |g|^2
        mu = b1 * mu + (1 - b1) * g / (sqrt(nu / (1 - b2^t)) + eps)
        u = mu / (1 - b1^t)

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added outside the root, > 0; the authors' 1e-15 by default.
      mu_dtype: dtype of the momentum; the parameters' by default.

    The state is that of `scale_by_adam`. Source: Ziyin, Wang, Ueda 2020, arXiv:2002.04839.
    """

    def init(params: Params) -> OptState:
        return ScaleByAdamState(zero_scalar(params), first_moment(params, mu_dtype), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            laprop_rule, (updates, state.mu, state.nu), adam_scalars, count=count, b1=b1, b2=b2, eps=eps
        )
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def laprop(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-15,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """LaProp: `scale_by_laprop`, decoupled weight decay, the learning rate; the authors use 4e-4.

    Arguments as in `scale_by_laprop` and `adamw`. Source: Ziyin, Wang, Ueda 2020, arXiv:2002.04839.
    """
    return chain(
        scale_by_laprop(b1, b2, eps, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
