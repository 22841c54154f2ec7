"""AdaBelief: Adam that divides by the deviation of gradients from their average."""

from typing import Any, NamedTuple

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import adam_scalars, nesterov_adam_scalars
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByBeliefState(NamedTuple):
    """Steps taken, the average of the gradient, and of its squared distance from that average."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square


@traced_once
def belief_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Zhuang et al. 2020, Algorithm 2."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + (s.c2 * bounded_square(g, mu) + s.eps_root)
    return mu / (s.bias1 * (safe_sqrt(s.debias2 * nu) + s.eps)), mu, nu


@traced_once
def nesterov_belief_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """`belief_rule` with the momentum of the next step, as in `scale_by_adam`."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + (s.c2 * bounded_square(g, mu) + s.eps_root)
    ahead = s.next_mu * mu + s.next_g * bounded(g)
    return ahead / (safe_sqrt(s.debias2 * nu) + s.eps), mu, nu


@transformation(packable=True)
def scale_by_belief(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
) -> Pair:
    """Divides the averaged gradient by the root of the averaged squared deviation from it.

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * |g - mu|^2 + eps_root
        u = (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t)) + eps)

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added outside the root, >= 0.
      eps_root: added to `nu` at every step, >= 0.
      nesterov: uses the momentum of the next step, as in `scale_by_adam`.

    Source: Zhuang et al. 2020, arXiv:2010.07468.
    """
    rule = nesterov_belief_rule if nesterov else belief_rule
    scalars = nesterov_adam_scalars if nesterov else adam_scalars

    def init(params: Params) -> OptState:
        return ScaleByBeliefState(zero_scalar(params), first_moment(params), second_moment(params))

    def update(
        updates: Updates, state: ScaleByBeliefState, params: Params | None = None
    ) -> tuple[Updates, ScaleByBeliefState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            rule, (updates, state.mu, state.nu), scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByBeliefState(count, mu, nu)

    return init, update


@transformation
def adabelief(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative | None = None,
    weight_decay_mask: MaskOrFn | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdaBelief: `scale_by_belief`, decoupled weight decay if it is given, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: as in `adamw`, >= 0; None leaves the stage out.
      weight_decay_mask: where to decay.

    The others and the source as in `scale_by_belief`.
    """
    scaling = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    rate = scale_by_learning_rate(learning_rate)
    if weight_decay is None:
        return chain(scaling, rate)
    return chain(scaling, add_decayed_weights(weight_decay, weight_decay_mask), rate)
