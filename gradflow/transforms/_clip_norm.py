"""Clipping by a norm: of the whole gradient, or of each leaf."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Limit
from gradflow._rules._layerwise import Axes, layerwise, leaf_scaled_norm, root_of_size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._scaled_norm import clip_scalars, rescale, rescale_rule, scaled_norm
from gradflow._types import EmptyState, Pair, Params, Updates


@transformation(reports=("norm", "factor"), elementwise=True, sums=True, norm_first=True)
def clip_by_global_norm(max_norm: Limit, *, axis_name: AxisName = None) -> Pair:
    """Scales all updates by one factor so that their norm is at most `max_norm`.

        norm = sqrt(sum of |g|^2 over all leaves)
        u = min(1, max_norm / norm) * g

    Args:
      max_norm: largest norm, >= 0; `inf` for no limit.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, or
        `()` if every device holds the same updates. A leaf known to be replicated counts once.

    Reports `norm`, before clipping, and `factor`. Raises ValueError inside `shard_map` where updates
    differ along an axis and no `axis_name` is given. Source: Pascanu et al. 2012, arXiv:1211.5063.

    >>> import gradflow as gf
    >>> tx = gf.clip_by_global_norm(1.0)
    >>> updates, state = tx.update([3.0, 4.0], tx.init([0.0, 0.0]))
    >>> [round(float(update), 3) for update in updates]
    [0.6, 0.8]
    """
    check_axis_name("clip_by_global_norm", axis_name)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        size, power = scaled_norm(updates, sum_axes(axis_name, updates))
        report("norm", lambda: size / power)
        report("factor", lambda: _factor(size, power, max_norm))
        (u,) = leafwise(rescale_rule, (updates,), clip_scalars, size=size, power=power, limit=max_norm)
        return u, state

    return init_empty_state, update


def _factor(size: jax.Array, power: jax.Array, limit: Any) -> jax.Array:
    return power * clip_scalars(size, power, jnp.asarray(limit, size.dtype))["factor"]


def clip_by_block_rms_rule(g: jax.Array, s: Any, *, axes: Axes) -> jax.Array:
    """u = min(1, threshold / rms(g)) * g."""
    size, power = leaf_scaled_norm(g, axes)
    rms = size / root_of_size(g, axes, size.dtype)
    return rescale(g, clip_scalars(rms, power, s.threshold)["factor"], power)


@transformation(packable=True, sums=True)
def clip_by_block_rms(threshold: Limit, *, axis_name: AxisName = None) -> Pair:
    """Scales each leaf so that its root mean square is at most `threshold`.

        rms = sqrt(mean of |g|^2 over the leaf)
        u = min(1, threshold / rms) * g

    Args:
      threshold: largest root mean square, >= 0; `inf` for no limit.
      axis_name: as in `clip_by_global_norm`.

    Raises ValueError inside `shard_map` where updates differ along an axis and no `axis_name` is given.
    Source: Shazeer & Stern 2018, arXiv:1804.04235, section 6.

    >>> import gradflow as gf
    >>> tx = gf.clip_by_block_rms(1.0)
    >>> updates, state = tx.update([4.0, 0.5], tx.init([0.0, 0.0]))
    >>> [float(update) for update in updates]
    [1.0, 0.5]
    """
    check_axis_name("clip_by_block_rms", axis_name)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return layerwise(clip_by_block_rms_rule, (updates,), axis_name, threshold=threshold), state

    return init_empty_state, update
