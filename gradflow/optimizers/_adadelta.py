"""AdaDelta: steps in the units of the parameters."""

from typing import Any, NamedTuple

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._kernel_hints._joining import in_kernel_of
from gradflow._kernel_hints._order import cpu_barrier
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._roles import Square
from gradflow._rules._state import second_moment
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByAdaDeltaState(NamedTuple):
    """The averages of squared gradients and of squared updates."""

    e_g: Square
    e_x: Square


def adadelta_scalars(rho: jax.Array, **_: jax.Array) -> Scalars:
    """The weight of the new square."""
    return {"c": 1 - rho}


def adadelta_rule(g: jax.Array, e_g: jax.Array, e_x: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Zeiler 2012, Algorithm 1."""
    e_g = s.rho * e_g + s.c * bounded_square(g)
    u = safe_sqrt(e_x + s.eps) / safe_sqrt(e_g + s.eps) * bounded(g)
    # Recomputed from operands that XLA treats as distinct, or on a CPU it would store the roots and the
    # quotient.
    g, wide, e_x = cpu_barrier((g, e_g, e_x))
    again = safe_sqrt(e_x + s.eps) / safe_sqrt(wide + s.eps) * bounded(g)
    e_x = s.rho * e_x + s.c * bounded_square(again)
    return in_kernel_of(e_x, u), e_g, e_x


@transformation(packable=True)
def scale_by_adadelta(rho: Decay = 0.9, eps: NonNegative = 1e-6) -> Pair:
    """Divides the gradient by its root mean square and multiplies it by that of past updates.

        e_g = rho * e_g + (1 - rho) * |g|^2
        u = sqrt(e_x + eps) / sqrt(e_g + eps) * g
        e_x = rho * e_x + (1 - rho) * |u|^2

    Args:
      rho: decay of both averages, in [0, 1).
      eps: added inside both roots, >= 0; it sets the size of the first steps.

    Source: Zeiler 2012, arXiv:1212.5701.
    """

    def init(params: Params) -> OptState:
        return ScaleByAdaDeltaState(second_moment(params), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdaDeltaState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdaDeltaState]:
        u, e_g, e_x = leafwise(
            adadelta_rule, (updates, state.e_g, state.e_x), adadelta_scalars, rho=rho, eps=eps
        )
        return u, ScaleByAdaDeltaState(e_g, e_x)

    return init, update


@transformation
def adadelta(
    learning_rate: Rate | None = None,
    rho: Decay = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """AdaDelta: an L2 penalty, `scale_by_adadelta`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule; None is 1, as the paper has no learning rate.
      weight_decay: >= 0, added to the gradient as `weight_decay * p`.
      weight_decay_mask: where to decay.

    The others and the source as in `scale_by_adadelta`.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )
