"""The linear assignment problem: pairs of rows and columns with the least total cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import compute_dtype, is_complex, is_inexact
from gradflow._errors import describe

__all__ = [
    "base_hungarian_algorithm",
    "hungarian_algorithm",
]

_Arrays = tuple[jax.Array, ...]


def hungarian_algorithm(cost_matrix: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the pairs `(i, j)` that minimize `cost_matrix[i, j].sum()`, each row and column used once.

    It finds shortest augmenting paths, in at most `min(n, m)^2` steps of O(max(n, m)) for any costs.

    Args:
      cost_matrix: real (n, m), possibly negative. Integers are added exactly while
        `min(n, m) * (max - min)` fits in 32 bits, floating-point costs in float32 or wider.

    Returns `i`, ascending, and `j`, int32 of shape (min(n, m),). As few pairs as possible cost `inf` or NaN,
    and as many as possible `-inf`; magnitudes above 1e30 count as infinite. Gradients do not pass through
    the pairs, which are integers: differentiate `cost_matrix[i, j].sum()` instead.
    Sources: Jonker & Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38, 1987; Crouse, "On implementing 2D rectangular assignment algorithms", IEEE
    Trans. AES 52(4), 2016, for rectangular matrices.
    """
    cost = _read(cost_matrix)
    if cost.size == 0:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
    pairs: tuple[jax.Array, jax.Array] = _solve(cost)
    return pairs


# The field's second name for the same function.
base_hungarian_algorithm = hungarian_algorithm


@jax.jit
def _solve(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
    cost = _comparable(cost)
    rows, columns = cost.shape
    if rows <= columns:
        return jnp.arange(rows, dtype=jnp.int32), _match_rows(cost)[0]
    _, row_to_column = _match_rows(cost.T)
    # The rows that have a column, in order: one per column.
    (taken,) = jnp.nonzero(row_to_column >= 0, size=columns)
    return taken.astype(jnp.int32), row_to_column[taken]


def _read(cost_matrix: Any) -> jax.Array:
    if not isinstance(cost_matrix, jax.Array | np.ndarray) or np.ndim(cost_matrix) != 2:
        raise ValueError(
            f"hungarian_algorithm: argument 'cost_matrix' must be an array of shape (n, m); got"
            f" {describe(cost_matrix)}"
        )
    dtype = cost_matrix.dtype
    known = is_inexact(dtype) or jnp.issubdtype(dtype, jnp.integer) or dtype.kind == "b"
    if not known or is_complex(dtype):
        raise TypeError(
            f"hungarian_algorithm: argument 'cost_matrix' must be real; got {describe(cost_matrix)}"
        )
    return jax.lax.stop_gradient(jnp.asarray(cost_matrix))


def _comparable(cost: jax.Array) -> jax.Array:
    """The costs as finite numbers of a signed type."""
    if is_inexact(cost.dtype):
        return _finite(cost.astype(compute_dtype(cost.dtype)))
    if cost.dtype == bool:
        return cost.astype(jnp.int32)
    # A shift preserves the order of assignments, and keeps sums of large costs in range.
    shifted = cost - jnp.min(cost) if cost.dtype.itemsize >= 4 else cost
    return shifted if cost.dtype == jnp.int64 else shifted.astype(jnp.int32)


def _finite(cost: jax.Array) -> jax.Array:
    """Costs with the infinite ones replaced by finite ones that exceed any sum of the others."""
    # A forbidden pair is often written as the largest float; sums of such would overflow.
    worst = ~(cost <= 1e30)
    best = cost < -1e30
    ordinary = ~(worst | best)
    low = jnp.min(cost, where=ordinary, initial=jnp.inf)
    high = jnp.max(cost, where=ordinary, initial=-jnp.inf)
    low, high = jnp.where(low <= high, low, 0), jnp.where(low <= high, high, 0)

    def beyond(low: jax.Array, high: jax.Array) -> jax.Array:
        return (min(cost.shape) + 1) * jnp.where(high > low, high - low, 1)

    lowest = jnp.where(jnp.any(best), low - beyond(low, high), low)
    highest = high + beyond(lowest, high)
    return jnp.where(ordinary, cost, jnp.where(worst, highest, lowest))


def _match_rows(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The column of each row and the row of each column, -1 for none; (n, m) with n <= m.

    Rows enter one by one. With prices `u`, `v` that keep `cost - u - v >= 0`, and 0 on matched
    pairs, Dijkstra's algorithm finds the cheapest alternating path from the new row to a free
    column; the pairs along it are swapped.
    """
    rows, columns = cost.shape
    dtype = cost.dtype
    far = np.inf if is_inexact(dtype) else np.iinfo(dtype).max
    farthest = np.finfo(dtype).max if is_inexact(dtype) else far - 1
    none = jnp.int32(-1)

    def enter(row: jax.Array, carry: _Arrays) -> _Arrays:
        column_of, row_of, u, v = carry

        def searching(search: _Arrays) -> jax.Array:
            return search[0] >= 0

        def visit(search: _Arrays) -> _Arrays:
            """Leave the row `here` for the nearest column not yet settled."""
            here, _, length, distance, previous, settled = search
            through = length + (cost[here] - u[here] - v)
            closer = ~settled & ((through < distance) | (previous < 0))
            distance = jnp.where(closer, through, distance)
            previous = jnp.where(closer, here, previous)
            # An unsettled column wins even when sums overflow, so that the search always ends.
            near = jnp.where(settled, far, jnp.minimum(distance, farthest))
            column = jnp.argmin(near).astype(jnp.int32)
            settled = settled.at[column].set(True)
            return row_of[column], column, distance[column], distance, previous, settled

        start: _Arrays = (
            row.astype(jnp.int32),
            none,
            jnp.zeros((), dtype),
            jnp.full(columns, far, dtype),
            jnp.full(columns, none),
            jnp.zeros(columns, bool),
        )
        search = jax.lax.while_loop(searching, visit, start)
        _, sink, length, distance, previous, settled = search
        change = jnp.where(settled, length - distance, 0)
        # Matched pairs keep reduced cost zero; -1, the row of a free column, is one past the end.
        u = u.at[jnp.where(row_of >= 0, row_of, rows)].add(change, mode="drop")
        u = u.at[row].add(length)
        v = v - change

        def unswapped(path: _Arrays) -> jax.Array:
            return path[0] >= 0

        def swap(path: _Arrays) -> _Arrays:
            column, column_of, row_of = path
            here = previous[column]
            row_of = row_of.at[column].set(here)
            return column_of[here], column_of.at[here].set(column), row_of

        path: _Arrays = (sink, column_of, row_of)
        _, column_of, row_of = jax.lax.while_loop(unswapped, swap, path)
        return column_of, row_of, u, v

    start = (
        jnp.full(rows, none),
        jnp.full(columns, none),
        jnp.zeros(rows, dtype),
        jnp.zeros(columns, dtype),
    )
    column_of, row_of, _, _ = jax.lax.fori_loop(0, rows, enter, start)
    return column_of, row_of
