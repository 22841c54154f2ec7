"""Rprop: one step size per element, adapted by signs alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import InitialRate, Positive, PositiveLimit
from gradflow._kernel_hints._order import written_after
from gradflow._rules._leafwise import leafwise
from gradflow._rules._roles import Mean, Other
from gradflow._rules._state import first_moment, second_moment
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale


class ScaleByRpropState(NamedTuple):
    """The step sizes, and the signs of the last gradients, zero after a sign change."""

    step_sizes: Other
    prev_updates: Mean


def rprop_rule(g: jax.Array, step: jax.Array, prev: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Riedmiller & Braun 1993; where the sign changes, the step size shrinks and the step is 0 (iRprop-)."""
    sign = jnp.sign(g)
    agreement = sign * prev
    grown, shrunk, same = (
        jnp.clip(size, s.min_step_size, s.max_step_size)
        for size in (step * s.eta_plus, step * s.eta_minus, step)
    )
    # The choice comes last: XLA would compute a clip again for the update, from the old step sizes.
    step = jnp.where(agreement > 0, grown, jnp.where(agreement < 0, shrunk, same))
    sign = written_after(jnp.where(agreement < 0, 0, sign), step)
    return step * sign, step, sign


@transformation(leaves="real", packable=True)
def scale_by_rprop(
    learning_rate: InitialRate,
    eta_minus: Positive = 0.5,
    eta_plus: Positive = 1.2,
    min_step_size: Positive = 1e-6,
    max_step_size: PositiveLimit = 50.0,
) -> Pair:
    """Steps by the sign of the gradient, with step sizes that adapt to sign changes.

        step = clip(step * (eta_plus if g * prev > 0, eta_minus if < 0, else 1), min_step_size, max_step_size)
        u = step * sign(g), but 0 where g * prev < 0;  prev = sign(u)

    Args:
      learning_rate: the first step size, >= 0.
      eta_minus: factor after a sign change, in (0, 1) in the paper.
      eta_plus: factor while the sign stays, > 1 in the paper.
      min_step_size: smallest step, > 0.
      max_step_size: largest step, > 0.

    For full-batch gradients. Source: Riedmiller & Braun 1993; Igel & Huesken 2000 for iRprop-.
    """

    def init(params: Params) -> OptState:
        return ScaleByRpropState(second_moment(params, value=learning_rate), first_moment(params))

    def update(
        updates: Updates, state: ScaleByRpropState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRpropState]:
        u, steps, prev = leafwise(
            rprop_rule, (updates, state.step_sizes, state.prev_updates),
            eta_minus=eta_minus, eta_plus=eta_plus,
            min_step_size=min_step_size, max_step_size=max_step_size,
        )  # fmt: skip
        return u, ScaleByRpropState(steps, prev)

    return init, update


@transformation
def rprop(
    learning_rate: InitialRate,
    eta_minus: Positive = 0.5,
    eta_plus: Positive = 1.2,
    min_step_size: Positive = 1e-6,
    max_step_size: PositiveLimit = 50.0,
) -> GradientTransformation:
    """Rprop: `scale_by_rprop`, then a minus sign.

    Args:
      learning_rate: a number >= 0, the first step size.

    The others and the source as in `scale_by_rprop`.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0)
    )
