"""Gradient centralization."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._errors import describe
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._types import EmptyState, Pair, Params, Updates


def centralize_rule(g: jax.Array, s: Any, *, channel_axis: int) -> jax.Array:
    """u = g - mean(g), over all axes but the channel axis."""
    if g.ndim < 2 or g.size == 0:
        return g
    axis = tuple(i for i in range(g.ndim) if i != channel_axis % g.ndim)
    count = g.size // g.shape[channel_axis]
    # Divided before the sum, by a power of two, so that the sum of large numbers is in range.
    power = 2.0 ** -(count.bit_length())
    return g - jnp.sum(power * g, axis=axis, keepdims=True) / (power * count)


@transformation
def centralize(*, channel_axis: int = 0) -> Pair:
    """Subtracts the mean of each channel from its gradient; vectors and scalars pass through.

        u = g - mean of g over all axes but `channel_axis`

    Args:
      channel_axis: the axis of the output channels, 0 or -1. It is 0 in the paper's code, and -1 for
        kernels of shape (inputs, outputs).

    Raises ValueError inside `shard_map` on updates that differ between devices, because a channel may
    be sharded. Source: Yong et al. 2020, arXiv:2004.01461.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.centralize(), gf.sgd(0.1)))
    chain(centralize(), sgd(0.1))
    """
    if isinstance(channel_axis, bool) or channel_axis not in (0, -1):
        raise ValueError(f"centralize: argument 'channel_axis' must be 0 or -1; got {describe(channel_axis)}")

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        refuse_varying("a mean", [g for g in jax.tree.leaves(updates) if g.ndim > 1])
        return leafwise(specialize(centralize_rule, channel_axis=channel_axis), (updates,))[0], state

    return init_empty_state, update
