"""A floor under the length of updates, unit by unit."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative, Positive
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, input_norms
from gradflow._types import EmptyState, Pair, Params, Updates


def row_floor_rule(g: jax.Array, p: jax.Array, s: Any, *, axis: Axis) -> jax.Array:
    """Lengthens the units that are short beside their parameters."""
    (size, power), (p_size, p_power) = input_norms(g, p, axis=axis)
    ratio = jnp.maximum(p_size / p_power, s.eps) / jnp.maximum(size / power, s.eps)
    return jnp.maximum(s.floor * ratio, 1) * g


@transformation
def row_floor(floor: NonNegative = 0.3825, eps: Positive = 1e-8, axis: Any = None) -> Pair:
    """Lengthens each unit's update to a share of the unit's own norm, where it is shorter.

        u_unit = max(1, floor * max(|p_unit|, eps) / max(|g_unit|, eps)) * g_unit

    The opposite of `adaptive_grad_clip`. It belongs in front of the stage with the learning rate, so that
    every output neuron moves at nearly the same relative rate.

    Args:
      floor: smallest ratio of norms, >= 0; 0.35 to 0.3825 in the published runs.
      eps: what a norm counts as at least, > 0.
      axis: the axes along which a unit's numbers lie; see `unitwise_norm`.

    Needs `params`. Raises ValueError inside `shard_map` on updates that differ between devices, since a
    unit may lie on several. Source: modded-nanogpt, optimization track, 2026.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_muon(), gf.row_floor(), gf.scale_by_learning_rate(0.02)))
    chain(scale_by_muon(), row_floor(), scale_by_learning_rate(0.02))
    """
    check_axis("row_floor", axis)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        refuse_varying("the norm of a unit", updates, params)
        check_has_axis(axis, updates)
        rule = specialize(row_floor_rule, axis=axis)
        return leafwise(rule, (updates, params), floor=floor, eps=eps)[0], state

    return init_empty_state, update
