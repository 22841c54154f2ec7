"""Steps relative to the parameters: the size of each leaf multiplies its update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._dtypes import is_complex
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._layerwise import Axes, layerwise, leaf_norm, root_of_size
from gradflow._rules._mesh_axes import AxisName, check_axis_name
from gradflow._types import EmptyState, Pair, Params, Updates


def block_norm_rule(g: jax.Array, p: jax.Array, s: Any, *, axes: Axes) -> jax.Array:
    """u = max(norm(p), min_scale) * g."""
    return _times(jnp.maximum(leaf_norm(p, axes), s.min_scale), g)


def block_rms_rule(g: jax.Array, p: jax.Array, s: Any, *, axes: Axes) -> jax.Array:
    """u = max(rms(p), min_scale) * g."""
    return _times(jnp.maximum(block_rms(p, axes), s.min_scale), g)


def block_rms(p: jax.Array, axes: Axes = ()) -> jax.Array:
    """The root of the mean square of a leaf that is sharded along `axes`."""
    norm = leaf_norm(p, axes)
    return norm / root_of_size(p, axes, norm.dtype)


def _times(factor: jax.Array, g: jax.Array) -> jax.Array:
    """`factor * g`, finite where `g` is: an infinite parameter would have norm NaN."""
    largest = jnp.finfo(g.dtype).max
    product = jnp.minimum(factor, largest) * g
    if is_complex(g.dtype):
        return product
    return jnp.clip(product, jnp.minimum(g, -largest), jnp.maximum(g, largest))


@transformation(packable=True, sums=True)
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3, *, axis_name: AxisName = None) -> Pair:
    """Multiplies each leaf's update by its parameter's norm: `u = max(norm(p), min_scale) * g`.

    Args:
      min_scale: the smallest factor, >= 0, so that parameters at zero can move.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, or
        `()` if every device holds the same parameters.

    Needs `params`. Raises ValueError inside `shard_map` where leaves differ along an axis and no
    `axis_name` is given.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_param_block_norm(), gf.sgd(0.1)))
    chain(scale_by_param_block_norm(), sgd(0.1))
    """
    return _scaling("scale_by_param_block_norm", block_norm_rule, min_scale, axis_name)


@transformation(packable=True, sums=True)
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3, *, axis_name: AxisName = None) -> Pair:
    """Multiplies each leaf's update by the root mean square of its parameter.

        u = max(sqrt(mean of |p|^2), min_scale) * g

    Arguments and errors as in `scale_by_param_block_norm`. Needs `params`. Source: Shazeer & Stern
    2018, arXiv:1804.04235, section 8.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_adam(), gf.scale_by_param_block_rms(), gf.scale(-0.001)))
    chain(scale_by_adam(), scale_by_param_block_rms(), scale(-0.001))
    """
    return _scaling("scale_by_param_block_rms", block_rms_rule, min_scale, axis_name)


def _scaling(name: str, rule: Callable[..., Any], min_scale: Any, axis_name: AxisName) -> Pair:
    check_axis_name(name, axis_name)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        return layerwise(rule, (updates, params), axis_name, min_scale=min_scale), state

    return init_empty_state, update
