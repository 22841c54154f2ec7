"""A gradient of length one, measured relative to the size of each weight."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._scaled_norm import rescale_rule, scaled_norm
from gradflow._types import EmptyState, Pair, Params, Updates


def relative_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """The gradient with respect to the weights divided by their own sizes."""
    return (jnp.abs(p) + s.eta) * g


def adaptive_normalize_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """Kwon et al. 2021, equation 8; `power` keeps the quotient in range."""
    moving = s.size > 0
    return (jnp.abs(p) + s.eta) * ((s.power * g) / jnp.where(moving, s.size, 1))


@transformation(packable=True, sums=True)
def adaptive_normalize(eta: NonNegative = 0.01, *, axis_name: AxisName = None) -> Pair:
    """Normalizes the gradient in a metric where each weight is measured by its own size.

        t = |p| + eta
        u = t^2 * g / norm(t * g)                            norm over all leaves

    ASAM is `sam(optimizer, chain(adaptive_normalize(), sgd(rho)))`: weights climb in proportion to their
    sizes, so rescaling layers does not change the sharpness that it finds.

    Args:
      eta: what every weight's size counts as in addition, >= 0; 0.01 in the paper.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    Zero gradients stay zero. Needs `params`. Raises ValueError inside `shard_map` where updates differ along
    an axis and no `axis_name` is given. Source: Kwon et al. 2021, arXiv:2102.11600.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adaptive_normalize(), gf.sgd(0.1)))
    chain(adaptive_normalize(), sgd(0.1))
    """
    check_axis_name("adaptive_normalize", axis_name)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        axes = sum_axes(axis_name, updates, params)
        size, power = scaled_norm(updates, axes)
        # A multiple of the gradient gives the same update, and this one has no product out of range.
        inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        (unit,) = leafwise(rescale_rule, (updates,), factor=inverse, power=power)
        (relative,) = leafwise(relative_rule, (unit, params), eta=eta)
        size, power = scaled_norm(relative, axes)
        (u,) = leafwise(adaptive_normalize_rule, (relative, params), eta=eta, size=size, power=power)
        return u, state

    return init_empty_state, update
