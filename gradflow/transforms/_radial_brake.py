"""Steps that let weights grow only slowly."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction, NonNegative, Rate
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import increment, zero_scalar
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, unit_direction, unit_norms
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._scale import ScaleByScheduleState

# A longer step counts as this long. Its square is in range for float32.
_LONGEST = 2.0**60


def radial_brake_rule(g: jax.Array, p: jax.Array, s: Any, *, axis: Axis) -> jax.Array:
    """The step in units of its own length, so that no product leaves the range of its dtype."""
    (size, power), (radius_size, radius_power) = unit_norms((g, p), axis)
    radius = radius_size / radius_power
    length = jnp.minimum(s.learning_rate * (size / power), _LONGEST)
    direction, w = unit_direction(g, axis), unit_direction(p, axis)
    outward = jnp.sum((direction * w.conj()).real, axis=axis, keepdims=True)
    braked = jnp.where(outward < 0, s.outward_scale * outward, outward)
    direction = direction - (outward - braked) * w
    target = jnp.maximum(radius - length * braked, 0)
    moved = jnp.where(
        radius > 0, target * unit_direction(p - length * direction, axis), p - length * direction
    )
    agree = (direction * moved.conj()).real > 0
    return moved - jnp.where(agree, s.learning_rate * s.weight_decay * moved, 0) - p


@transformation(reports=("learning_rate",), last=True)
def step_with_radial_brake(
    learning_rate: Rate, outward_scale: Fraction = 0.5, weight_decay: NonNegative = 0.0, axis: Any = None
) -> Pair:
    """Damps the part of a step that lengthens the weights, and undoes the growth of its sideways part.

        w = p / norm(p),  radial = <g, w>,  braked = outward_scale * radial if radial < 0 else radial
        g = g + (braked - radial) * w
        moved = n(p - learning_rate * g) * (norm(p) - learning_rate * braked)
        p_new = moved - learning_rate * weight_decay * (g * moved > 0) * moved
        u = p_new - p

    Takes the place of `scale_by_learning_rate`. Weights of zero take the plain step.

    Args:
      learning_rate: >= 0.
      outward_scale: what is left of the outward part, in [0, 1]; 0.5 in the published runs.
      weight_decay: >= 0, cautious: it acts where the step shortens a weight already.
      axis: the axes over which a norm runs, by default all; `(-2, -1)` where a leaf is a stack of matrices.

    Needs `params`. Source: modded-nanogpt, optimization track, 2026.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_muon(), gf.step_with_radial_brake(0.01)))
    chain(scale_by_muon(), step_with_radial_brake(0.01))
    """
    check_axis("step_with_radial_brake", axis)

    def init(params: Params) -> OptState:
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params
    ) -> tuple[Updates, ScaleByScheduleState]:
        refuse_varying("the norm of a leaf", updates, params)
        check_has_axis(axis, updates)
        report("learning_rate", learning_rate)
        (u,) = leafwise(
            specialize(radial_brake_rule, axis=axis), (updates, params),
            learning_rate=learning_rate, outward_scale=outward_scale, weight_decay=weight_decay,
        )  # fmt: skip
        return u, ScaleByScheduleState(increment(state.count))

    return init, update
