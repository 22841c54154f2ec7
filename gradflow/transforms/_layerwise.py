"""Rules with norms of whole leaves, be these arrays or runs of a packed buffer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._axes import AxisName, global_norm, global_size, sum_axes
from gradflow._base import Updates
from gradflow._frames import stage_name
from gradflow._leafwise import abs_sq, bind, leafwise
from gradflow._packed import BLOCK, Group, Layout, Packed, is_packed
from gradflow.transforms._scaled_norm import scaled_norm, scaled_norms


class Segments(NamedTuple):
    """A packed buffer as rows of one block each, and which leaf each row is of.

    To a rule such a buffer is an array of rows, and what it learns of "the leaf" is one number a row.
    """

    layout: Layout
    group: Group

    def total(self, x: jax.Array) -> jax.Array:
        """The sum over each leaf."""
        rows = jnp.sum(x, axis=1)
        count = len(self.group.leaves)
        return jax.ops.segment_sum(rows, self._leaf_of(), count, indices_are_sorted=True)

    def rows(self, numbers: jax.Array) -> jax.Array:
        """A number for each leaf as a column with one for each row."""
        return numbers[self._leaf_of()][:, None]

    def sizes(self) -> np.ndarray:
        """How many numbers each leaf has; an empty one counts as one."""
        return np.maximum([self.layout.size(index) for index in self.group.leaves], 1)

    def _leaf_of(self) -> jax.Array:
        ends = jnp.asarray(np.cumsum(self.group.blocks, dtype=np.int32))
        # Behind the barrier, or XLA would compute the rows ahead and keep them as constants.
        ends = jax.lax.optimization_barrier(ends)
        row = jax.lax.iota(np.int32, self.group.size // BLOCK)
        return jnp.searchsorted(ends, row, side="right", method="scan_unrolled").astype(np.int32)


Axes = tuple[str, ...] | Segments


def layerwise(rule: Callable[..., Any], trees: tuple[Any, ...], axis_name: AxisName, **hyper: Any) -> Updates:
    """`leafwise` for a rule that asks `leaf_norm` and its kin about whole leaves.

    `rule(*leaves, s, axes=...) -> u` hands `axes` on to them. Raises ValueError inside `shard_map` as
    `sum_axes` does, and for packed trees whose leaves are pieces.
    """
    axes = sum_axes(axis_name, *trees)
    if not is_packed(trees[0]):
        return leafwise(bind(rule, axes=axes), trees, **hyper)[0]
    if axes:
        raise ValueError(
            f"{stage_name()}: the leaves of packed trees cannot be pieces along axes; unpack them before "
            "shard_map, or pass axis_name=() if every device holds the same trees"
        )
    layout = trees[0].layout
    buffers = []
    for index, group in enumerate(layout.groups):
        rows = [node.buffers[index].reshape(-1, BLOCK) for node in trees]
        (u,) = leafwise(bind(rule, axes=Segments(layout, group)), tuple(rows), **hyper)
        buffers.append(u.ravel())
    return Packed(buffers, layout)


def leaf_scaled_norm(x: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """`scaled_norm` of the leaf that `x` is or has rows of."""
    if not isinstance(axes, Segments):
        return scaled_norm(x, axes)
    size, power = scaled_norms(lambda x: axes.total(abs_sq(x)), lambda shift, x: axes.rows(shift) * x, x)
    return axes.rows(size), axes.rows(power)


def leaf_norm(x: jax.Array, axes: Axes) -> jax.Array:
    """The 2-norm of the leaf that `x` is or has rows of."""
    if not isinstance(axes, Segments):
        return global_norm(x, axes)
    size, power = leaf_scaled_norm(x, axes)
    return size / power


def root_of_size(x: jax.Array, axes: Axes, dtype: Any) -> jax.Array:
    """The square root of how many numbers the leaf has; 1 for an empty one."""
    if not isinstance(axes, Segments):
        return jnp.sqrt(jnp.asarray(max(global_size(x, axes), 1), dtype))
    return axes.rows(jnp.sqrt(jnp.asarray(axes.sizes(), dtype)))
