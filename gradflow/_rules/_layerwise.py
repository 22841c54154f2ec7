"""Rules that use norms of whole leaves, for arrays and for packed buffers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._context import context, stage_name
from gradflow._platform import by_platform
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._math import abs_sq
from gradflow._rules._mesh_axes import AxisName, global_norm, global_size, sum_axes
from gradflow._rules._scaled_norm import scaled_norm, scaled_norms
from gradflow._rules._unit_norm import unit_norms
from gradflow._types import Updates
from gradflow.packed._layout import BLOCK
from gradflow.packed._pack import Packed, is_packed
from gradflow.packed._segments import Segments

Axes = tuple[str, ...] | Segments


def layerwise(rule: Callable[..., Any], trees: tuple[Any, ...], axis_name: AxisName, **hyper: Any) -> Updates:
    """`leafwise` for a rule that calls `leaf_norm`, `leaf_norms`, `leaf_scaled_norm` or `root_of_size`.

    `rule(*leaves, s, axes=...) -> u` passes `axes` to them. Raises ValueError inside `shard_map` as
    `sum_axes` does, and for packed trees whose leaves are sharded along mapped axes.
    """
    axes = sum_axes(axis_name, *trees)
    if context.stacks is not None:
        return leafwise(specialize(_on_rows, of_leaf=rule, axes=axes), trees, **hyper)[0]
    if not is_packed(trees[0]):
        return leafwise(specialize(rule, axes=axes), trees, **hyper)[0]
    if axes:
        raise ValueError(
            f"{stage_name()}: packed trees must be whole on every device; got pieces along {axes}. Unpack "
            "them before shard_map, or pass axis_name=() if every device holds the same trees"
        )
    layout = trees[0].layout
    buffers = []
    for index, group in enumerate(layout.groups):
        rows = [node.buffers[index].reshape(-1, BLOCK) for node in trees]
        (u,) = leafwise(specialize(rule, axes=Segments(layout, group)), tuple(rows), **hyper)
        buffers.append(u.ravel())
    return Packed(buffers, layout)


def _on_rows(*stacks: Any, of_leaf: Callable[..., Any], axes: tuple[str, ...]) -> Any:
    """A rule of a leaf on each leaf of a stack."""
    *leaves, s = stacks
    if jax.typeof(leaves[0]).sharding.mesh.explicit_axes:
        # The select that `vmap` makes of a branch has no layout for its condition.
        return jax.lax.map(lambda row: of_leaf(*row, s, axes=axes), tuple(leaves))
    return jax.vmap(lambda *row: of_leaf(*row, s, axes=axes))(*leaves)


def leaf_scaled_norm(x: jax.Array, axes: Axes, beside: bool = False) -> tuple[jax.Array, jax.Array]:
    """`scaled_norm` of the leaf `x`, or of each leaf in the rows `x` of a packed buffer."""
    if not isinstance(axes, Segments):
        return scaled_norm(x, axes, beside)
    size, power = scaled_norms(lambda x: axes.total(abs_sq(x)), lambda shift, x: axes.rows(shift) * x, x)
    return axes.rows(size), axes.rows(power)


# Numbers of a leaf. On a GPU, LARS then launches 33 kernels for eight leaves, not 41, and writes out none; of
# larger leaves a launch takes less time than LAMB's second reading of the parameters.
_IN_ONE_KERNEL = 2**21


def leaf_norms(g: jax.Array, p: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`leaf_scaled_norm` of `g` and `leaf_norm` of `p`; a GPU reads both in one kernel if they are small."""

    def apart(g: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return *leaf_scaled_norm(g, axes, beside=True), leaf_norm(p, axes, beside=True)

    def jointly(g: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (size, power), (p_size, p_power) = unit_norms((g, p))
        return size.reshape(()), power.reshape(()), (p_size / p_power).reshape(())

    is_small = isinstance(g.size, int) and g.size < _IN_ONE_KERNEL
    if axes or not is_small or jax.typeof(g) != jax.typeof(p):
        return apart(g, p)
    result: tuple[jax.Array, jax.Array, jax.Array] = by_platform(
        g, p, cpu=apart, accelerator=jointly, tpu=apart
    )
    return result


def leaf_norm(x: jax.Array, axes: Axes, beside: bool = False) -> jax.Array:
    """The 2-norm of the leaf `x`, or of each leaf in the rows `x` of a packed buffer."""
    if not isinstance(axes, Segments):
        return global_norm(x, axes, beside=beside)
    size, power = leaf_scaled_norm(x, axes)
    return size / power


def root_of_size(x: jax.Array, axes: Axes, dtype: Any) -> jax.Array:
    """The square root of the number of elements of the leaf; 1 for an empty leaf."""
    if not isinstance(axes, Segments):
        return jnp.sqrt(jnp.asarray(max(global_size(x, axes), 1), dtype))
    return axes.rows(jnp.sqrt(jnp.asarray(axes.sizes(), dtype)))
