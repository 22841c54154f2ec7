"""The simplex and the l1 norm: one threshold for the whole tree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.projections._trees import (
    Rule,
    as_vector,
    from_vector,
    is_empty,
    project,
    radius_of,
    read,
    read_axes,
)
from gradflow.tree._nan import nan_of


def simplex_threshold(x: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`max(x - t, 0)` and the `t` that makes the sum `total`, for a vector `x`, `total >= 0`.

    The support is the longest prefix of the sorted vector whose elements exceed the mean excess
    (Duchi et al. 2008). Which elements those are is locally constant, so the derivative passes
    only through the mean over them, `t = (sum_S x - total) / |S|`. The sort is not differentiated.
    """
    # A common shift does not change the result, and keeps the digits of sums of small numbers.
    largest = jax.lax.stop_gradient(jnp.max(x))
    x = x - largest
    fixed, wanted = jax.lax.stop_gradient((x, total))
    descending = -jnp.sort(-fixed)
    counts = jnp.arange(1, x.size + 1, dtype=x.dtype)
    excess = (jnp.cumsum(descending) - wanted) / counts
    # Element k belongs to the support while it exceeds the excess of the first k. The first one
    # always does, except for total = 0, where it equals the excess.
    last = jnp.maximum(jnp.sum(descending > excess) - 1, 0)
    support = fixed > excess[last]
    size = jnp.maximum(jnp.sum(support), 1).astype(x.dtype)
    threshold = (jnp.sum(jnp.where(support, x, 0)) - total) / size
    shifted = x - threshold
    projected = jnp.where(support & (shifted > 0), shifted, 0)
    is_finite = jnp.isfinite(largest + nan_of(fixed)) & jnp.isfinite(wanted)
    return jnp.where(is_finite, projected, jnp.nan), threshold + largest


def projection_simplex(tree: Any, scale: Any = 1, axis: Any = None) -> Any:
    """Projects onto `p >= 0`, `sum(p) = scale`: `p = max(x - t, 0)`.

    One `t` for all leaves is found by sorting: O(n log n) for n elements. `scale >= 0`. Leaves
    below float32 are rounded at the end, so their sum is `scale` only to their own precision. `axis` gives
    each vector along these axes of a leaf a simplex of its own: `axis=-1` makes rows of probabilities.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball for Learning in
    High Dimensions", ICML 2008.
    """
    return _by_threshold("projection_simplex", tree, scale, axis, _onto_simplex)


def _onto_simplex(leaves: list[jax.Array], total: jax.Array) -> list[jax.Array]:
    return from_vector(simplex_threshold(as_vector(leaves), total)[0], leaves)


def _onto_cross(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    x = as_vector(leaves)
    # Zero counts as positive, in value and in derivative: the projection of zero is on the sphere.
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    return from_vector(sign * simplex_threshold(sign * x, radius)[0], leaves)


def _into_cross(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    norm = functools.reduce(jnp.add, [jnp.sum(jnp.abs(x)).astype(radius.dtype) for x in leaves])
    inside = jax.lax.stop_gradient(norm) <= radius
    outer = _onto_cross(leaves, radius)
    return [jnp.where(inside, x, y.astype(x.dtype)) for x, y in zip(leaves, outer, strict=True)]


def _by_threshold(name: str, tree: Any, scale: Any, axis: Any, rule: Rule) -> Any:
    leaves, form = read(name, "tree", tree)
    radius, axes = radius_of(name, scale, form), read_axes(name, "tree", tree, axis)
    return tree if is_empty(leaves) else project(rule, leaves, form, radius, axes=axes)


def projection_l1_ball(tree: Any, scale: Any = 1, axis: Any = None) -> Any:
    """Projects onto `sum|p| <= scale`: `p = sign(x) * max(|x| - t, 0)`.

    `x` itself if it is inside; otherwise `|p|` is the projection of `|x|` onto the simplex. `axis` as in
    `projection_simplex`.
    Source: Duchi et al. 2008, as for `projection_simplex`.
    """
    return _by_threshold("projection_l1_ball", tree, scale, axis, _into_cross)


def projection_l1_sphere(tree: Any, scale: Any = 1, axis: Any = None) -> Any:
    """Projects onto `sum|p| = scale`: `p = sign(x) * max(|x| - t, 0)`.

    Here `t` may be negative and move `x` outward. Zeros move to the positive side (`sign(0) = 1`, although
    the negative one is equally near), so the result always lies on the sphere. A sphere is not convex, as
    `projection_l2_sphere` says. `axis` as in `projection_simplex`.
    """
    return _by_threshold("projection_l1_sphere", tree, scale, axis, _onto_cross)
