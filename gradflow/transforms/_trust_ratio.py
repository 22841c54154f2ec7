"""The trust ratio of LARS and LAMB."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._layerwise import Axes, layerwise, leaf_norms
from gradflow._rules._mesh_axes import AxisName, check_axis_name
from gradflow._rules._scaled_norm import rescale
from gradflow._types import EmptyState, Pair, Params, Updates


def trust_ratio_rule(g: jax.Array, p: jax.Array, s: Any, *, axes: Axes) -> jax.Array:
    """You et al. 2017, equation 6; `power` keeps the ratio in range."""
    size, power, p_norm = leaf_norms(g, p, axes)
    g_norm = jnp.maximum(size, s.min_norm * power)
    p_norm = jnp.maximum(p_norm, s.min_norm)
    usable = (p_norm > 0) & (g_norm > 0)
    divisor = jnp.where(usable, g_norm + s.eps * power, 1)
    return rescale(g, jnp.where(usable, s.trust_coefficient * p_norm / divisor, 1 / power), power)


@transformation(packable=True, sums=True)
def scale_by_trust_ratio(
    min_norm: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Scales the update of each leaf to the norm of its parameter, times a coefficient.

        u = trust_coefficient * norm(p) / (norm(g) + eps) * g
        u = g                                                    where either norm is 0

    Args:
      min_norm: lower bound of the norms, >= 0.
      trust_coefficient: >= 0; 1 in LAMB, 0.001 in LARS.
      eps: added to the divisor, >= 0.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, or
        `()` if every device holds the same updates and parameters.

    Needs `params`. Raises ValueError inside `shard_map` where leaves differ along an axis and no
    `axis_name` is given. Source: You et al. 2017, arXiv:1708.03888; You et al. 2019, arXiv:1904.00962.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_adam(), gf.scale_by_trust_ratio(), gf.scale(-1e-3)))
    chain(scale_by_adam(), scale_by_trust_ratio(), scale(-0.001))
    """
    check_axis_name("scale_by_trust_ratio", axis_name)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        numbers = {"min_norm": min_norm, "trust_coefficient": trust_coefficient, "eps": eps}
        return layerwise(trust_ratio_rule, (updates, params), axis_name, **numbers), state

    return init_empty_state, update
