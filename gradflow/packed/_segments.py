"""A packed buffer as rows of one block, with reductions over each leaf."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.packed._layout import BLOCK, Group, Layout


class Segments(NamedTuple):
    """A packed buffer as rows of one block each, and the leaf that each row belongs to.

    A rule gets the buffer as an array of rows, and each reduction over a leaf as one number per row.
    """

    layout: Layout
    group: Group

    def total(self, x: jax.Array) -> jax.Array:
        """The sum over each leaf."""
        rows = jnp.sum(x, axis=1)
        count = len(self.group.leaves)
        return jax.ops.segment_sum(rows, self._leaf_of(), count, indices_are_sorted=True)

    def rows(self, numbers: jax.Array) -> jax.Array:
        """Expands one number per leaf to a column with one number per row."""
        return numbers[self._leaf_of()][:, None]

    def sizes(self) -> np.ndarray:
        """The number of elements of each leaf, at least 1."""
        return np.maximum([self.layout.size(index) for index in self.group.leaves], 1)

    def _leaf_of(self) -> jax.Array:
        ends = jnp.asarray(np.cumsum(self.group.blocks, dtype=np.int32))
        # Without the barrier XLA would fold the rows into constants.
        ends = jax.lax.optimization_barrier(ends)
        row = jax.lax.iota(np.int32, self.group.size // BLOCK)
        return jnp.searchsorted(ends, row, side="right", method="scan_unrolled").astype(np.int32)
