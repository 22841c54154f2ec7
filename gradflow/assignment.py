"""The linear assignment problem: pair rows with columns at the least total cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import compute_dtype, is_complex, is_inexact
from gradflow._errors import describe

_Arrays = tuple[jax.Array, ...]


def hungarian_algorithm(cost_matrix: Any) -> tuple[jax.Array, jax.Array]:
    """The pairs `(i, j)` that minimise `cost_matrix[i, j].sum()`, each row and column used once.

    `cost_matrix` is (n, m); `i` and `j` are int32 of shape (min(n, m),), with `i` ascending. Costs
    may be negative. Integers are added exactly while `min(n, m) * (max - min)` fits in 32 bits;
    floating-point costs are added in float32 or wider. As few pairs as possible cost `inf` or NaN,
    and as many as possible `-inf`; magnitudes above 1e30 count as infinite. No gradient passes:
    the pairs are integers. Differentiate `cost_matrix[i, j].sum()` instead.

    Shortest augmenting paths, at most `min(n, m)^2` steps of O(max(n, m)), whatever the costs.
    Jonker, Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38, 1987; rectangular matrices as in Crouse, "On implementing 2D
    rectangular assignment algorithms", IEEE Trans. AES 52(4), 2016.
    """
    cost = _read(cost_matrix)
    if cost.size == 0:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
    pairs: tuple[jax.Array, jax.Array] = _solve(cost)
    return pairs


# The field knows two implementations of one function; one suffices.
base_hungarian_algorithm = hungarian_algorithm


@jax.jit
def _solve(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
    cost = _comparable(cost)
    rows, columns = cost.shape
    if rows <= columns:
        return jnp.arange(rows, dtype=jnp.int32), _match_rows(cost)[0]
    _, row_to_column = _match_rows(cost.T)
    # The rows that have a column, in order: there are exactly as many as columns.
    (taken,) = jnp.nonzero(row_to_column >= 0, size=columns)
    return taken.astype(jnp.int32), row_to_column[taken]


def _read(cost_matrix: Any) -> jax.Array:
    if not isinstance(cost_matrix, jax.Array | np.ndarray) or np.ndim(cost_matrix) != 2:
        raise ValueError(
            f"hungarian_algorithm: expected cost_matrix to be an array of shape (n, m), got"
            f" {describe(cost_matrix)}"
        )
    dtype = cost_matrix.dtype
    known = is_inexact(dtype) or jnp.issubdtype(dtype, jnp.integer) or dtype.kind == "b"
    if not known or is_complex(dtype):
        raise TypeError(f"hungarian_algorithm: expected cost_matrix to be real, got {describe(cost_matrix)}")
    return jax.lax.stop_gradient(jnp.asarray(cost_matrix))


def _comparable(cost: jax.Array) -> jax.Array:
    """The costs as finite numbers of a signed type."""
    if is_inexact(cost.dtype):
        return _finite(cost.astype(compute_dtype(cost.dtype)))
    if cost.dtype == bool:
        return cost.astype(jnp.int32)
    # A shift changes no comparison of assignments, and makes room for the sums of large costs.
    shifted = cost - jnp.min(cost) if cost.dtype.itemsize >= 4 else cost
    return shifted if cost.dtype == jnp.int64 else shifted.astype(jnp.int32)


def _finite(cost: jax.Array) -> jax.Array:
    """Costs with the infinite ones replaced by finite ones that no sum of the others outweighs."""
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
