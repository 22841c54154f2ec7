"""A packed buffer as rows of blocks, with reductions over each leaf."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.packed._layout import BLOCK, Group, Layout


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
