"""Fromage: steps relative to the norm of each layer, with that norm kept from growing."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._mesh_axes import AxisName
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import ScaleByScheduleState, scale_by_learning_rate, scale_by_trust_ratio


def shrink_scalars(learning_rate: jax.Array, **_: jax.Array) -> Scalars:
    """`factor = 1 / sqrt(1 + learning_rate^2)`, and `loss = 1 - factor` to full precision."""
    square = learning_rate * learning_rate
    root = jnp.sqrt(1 + square)
    return {"factor": 1 / root, "loss": square / (root * (1 + root))}


def shrink_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """Bernstein et al. 2020, Algorithm 1: the last line, which scales p + g."""
    return s.factor * g - s.loss * p


@transformation
def shrink_by_learning_rate(learning_rate: Rate) -> Pair:
    """Shrinks the parameters by the factor that an orthogonal step grows them.

        p + u = (p + g) / sqrt(1 + learning_rate^2)

    Args:
      learning_rate: a number >= 0 or a schedule: the norm of the step over the norm of the parameters.

    Needs `params`. Its state is the step count, as in `scale_by_learning_rate`.
    Source: Bernstein et al. 2020, arXiv:2002.03432.
    """

    def init(params: Params) -> OptState:
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params
    ) -> tuple[Updates, ScaleByScheduleState]:
        (u,) = leafwise(shrink_rule, (updates, params), shrink_scalars, learning_rate=learning_rate)
        return u, ScaleByScheduleState(increment(state.count))

    return init, update


@transformation
def fromage(
    learning_rate: Rate, min_norm: NonNegative = 1e-6, *, axis_name: AxisName = None
) -> GradientTransformation:
    """Fromage: `scale_by_trust_ratio`, the learning rate, then `shrink_by_learning_rate`.

        p = (p - learning_rate * norm(p) / norm(g) * g) / sqrt(1 + learning_rate^2)

    Args:
      learning_rate: a number >= 0 or a schedule; 0.01 in the paper.
      min_norm: lower bound of the norms, >= 0.
      axis_name: for a call inside `shard_map`; see `scale_by_trust_ratio`.

    Source: Bernstein et al. 2020, arXiv:2002.03432.
    """
    return chain(
        scale_by_trust_ratio(min_norm, axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
        shrink_by_learning_rate(learning_rate),
    )
