"""A box cut by a plane: one multiplier, found among the places where numbers reach their bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.projections._trees import (
    as_vector,
    from_vector,
    is_empty,
    project,
    read_axes,
    read_pair,
    scalar,
)
from gradflow.tree._bounds import Owner, read_bounds


def projection_box_section(x: Any, lower: Any, upper: Any, a: Any, b: Any, axis: Any = None) -> Any:
    """Projects onto `lower <= p <= upper`, `<a, p> = b`: `p = min(max(x - t * a, lower), upper)`.

    One `t` for all leaves. A binary search among the sorted places where a number reaches a bound finds the
    piece of the line that `t` is on: exact up to rounding, in O(n log n) for n numbers.

    Args:
      x: a tree of real arrays.
      lower, upper: as in `projection_box`.
      a: a tree like `x`.
      b: a scalar. NaN is returned where no point between the bounds satisfies `<a, p> = b`.
      axis: gives each vector along these axes of a leaf a section of its own; `a` may then be shared, as an
        array that broadcasts.

    Source: Kiwiel 2008, "Breakpoint searching algorithms for the continuous quadratic knapsack problem".
    """
    name = "projection_box_section"
    xs, normal, form = read_pair(name, x, a, broadcast=axis is not None)
    axes = read_axes(name, "x", x, axis)
    bounds = read_bounds(Owner(name, "x"), x, lower, upper)
    offset = scalar(name, "b", b, form.widest)
    return x if is_empty(xs) else project(_onto_section, xs, form, offset, own=(normal, bounds), axes=axes)


def _onto_section(
    leaves: list[jax.Array], normal: list[jax.Array], bounds: list[tuple[Any, Any]], b: jax.Array
) -> list[jax.Array]:
    x, a = as_vector(leaves), as_vector(normal)
    lower, upper = (
        as_vector([_filled(pair[side], u, default) for pair, u in zip(bounds, leaves, strict=True)])
        for side, default in ((0, -jnp.inf), (1, jnp.inf))
    )
    return from_vector(_section(x, lower, upper, a.astype(x.dtype), b.astype(x.dtype)), leaves)


def _filled(bound: Any, like: jax.Array, default: float) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(default if bound is None else bound, like.dtype), like.shape)


def _section(x: jax.Array, lower: jax.Array, upper: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    # As t grows, a number moves from its `first` bound to its `last` one, between the two places.
    first, last = jnp.where(a > 0, upper, lower), jnp.where(a > 0, lower, upper)
    begins, ends, left, right = jax.lax.stop_gradient(_piece(x, first, last, a, b))
    free = (a != 0) & (begins <= left) & (ends >= right)
    still = jnp.where(a == 0, jnp.clip(x, lower, upper), jnp.where(ends <= left, last, first))
    # From a place on the piece on, so that a common shift of large numbers costs no digits.
    near = jnp.where(jnp.isfinite(left), left, jnp.where(jnp.isfinite(right), right, 0))
    moved = x - near * a
    square = jnp.sum(jnp.where(free, a * a, 0))
    left_over = jnp.sum(a * jnp.where(free, moved, still)) - b
    step = jnp.where(square > 0, left_over / jnp.where(square > 0, square, 1), 0)
    p = jnp.where(free, moved - step * a, still)
    # Derivatives inside a piece are those of the free numbers; rounding must not leave the box.
    p = p + jax.lax.stop_gradient(jnp.clip(p, lower, upper) - p)
    return jnp.where(jax.lax.stop_gradient(_is_possible(x, lower, upper, first, last, a, b)), p, jnp.nan)


def _is_possible(
    x: Any, lower: Any, upper: Any, first: Any, last: Any, a: jax.Array, b: jax.Array
) -> jax.Array:
    """Whether `b` is between the least and the largest `<a, p>` of the box, up to rounding."""
    highest, lowest = (jnp.where(a == 0, 0, a * bound) for bound in (first, last))
    slack = 16 * float(np.finfo(a.dtype).eps)

    def reaches(terms: jax.Array, sign: int) -> jax.Array:
        return sign * (jnp.sum(terms) - b) >= -slack * (jnp.sum(jnp.abs(terms)) + jnp.abs(b))

    known = jnp.isfinite(jnp.sum(0 * x) + b)
    return reaches(highest, 1) & reaches(lowest, -1) & jnp.all(lower <= upper) & known


def _piece(x: jax.Array, first: jax.Array, last: jax.Array, a: jax.Array, b: jax.Array) -> Any:
    """Where each number leaves its first bound and reaches its last, and the two places around `t`."""
    safe = jnp.where(a == 0, 1, a)
    begins = jnp.where(a == 0, -jnp.inf, (x - first) / safe)
    ends = jnp.where(a == 0, jnp.inf, (x - last) / safe)
    limits = jnp.where(a > 0, last, first), jnp.where(a > 0, first, last)
    places = jnp.sort(jnp.concatenate([begins, ends]))

    def is_before(place: jax.Array) -> jax.Array:
        """Whether `<a, p>` has not yet fallen below `b`."""
        inside = jnp.clip(x - place * a, *limits)
        # The same comparisons as those that say which numbers are free.
        p = jnp.where(place <= begins, first, jnp.where(place >= ends, last, inside))
        return jnp.sum(jnp.where(a == 0, 0, a * p)) >= b

    count = places.size
    # The number of places, from the left, that `t` is not before.
    low = jnp.sum(places == -jnp.inf)
    high = jnp.sum(places < jnp.inf)

    def halve(_: Any, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = pair
        middle = (low + high) // 2
        passed = is_before(places[jnp.clip(middle, 0, count - 1)])
        more = low < high
        return jnp.where(more & passed, middle + 1, low), jnp.where(more & ~passed, middle, high)

    low, _ = jax.lax.fori_loop(0, count.bit_length() + 1, halve, (low, high))
    left = jnp.where(low > 0, places[jnp.maximum(low - 1, 0)], -jnp.inf)
    right = jnp.where(low < count, places[jnp.minimum(low, count - 1)], jnp.inf)
    return begins, ends, left, right
