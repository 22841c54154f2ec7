"""The simplex and the l1 norm: one threshold for the whole tree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.projections._trees import Rule, as_vector, from_vector, is_empty, project, radius_of, read


def _threshold(x: jax.Array, total: jax.Array) -> jax.Array:
    """`max(x - t, 0)` with the `t` that makes the sum `total`, for a vector `x`, `total >= 0`.

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
    shifted = x - (jnp.sum(jnp.where(support, x, 0)) - total) / size
    projected = jnp.where(support & (shifted > 0), shifted, 0)
    return jnp.where(jnp.isfinite(largest) & jnp.isfinite(wanted), projected, jnp.nan)


def projection_simplex(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `p >= 0`, `sum(p) = scale`: `p = max(x - t, 0)`.

    One `t` for all leaves is found by sorting: O(n log n) for n elements. `scale >= 0`. Leaves
    below float32 are rounded at the end, so their sum is `scale` only to their own precision.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball for Learning in
    High Dimensions", ICML 2008.
    """
    name = "projection_simplex"
    leaves, form = read(name, "tree", tree)
    total = radius_of(name, scale, form)
    return tree if is_empty(leaves) else project(_onto_simplex, leaves, form, total)


def _onto_simplex(leaves: list[jax.Array], total: jax.Array) -> list[jax.Array]:
    return from_vector(_threshold(as_vector(leaves), total), leaves)


def _onto_cross(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    x = as_vector(leaves)
    # Zero counts as positive, in value and in derivative: the projection of zero is on the sphere.
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    return from_vector(sign * _threshold(sign * x, radius), leaves)


def _into_cross(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    norm = functools.reduce(jnp.add, [jnp.sum(jnp.abs(x)).astype(radius.dtype) for x in leaves])
    inside = jax.lax.stop_gradient(norm) <= radius
    outer = _onto_cross(leaves, radius)
    return [jnp.where(inside, x, y.astype(x.dtype)) for x, y in zip(leaves, outer, strict=True)]


def _l1(name: str, tree: Any, scale: Any, rule: Rule) -> Any:
    leaves, form = read(name, "tree", tree)
    radius = radius_of(name, scale, form)
    return tree if is_empty(leaves) else project(rule, leaves, form, radius)


def projection_l1_ball(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `sum|p| <= scale`: `p = sign(x) * max(|x| - t, 0)`.

    `x` itself if it is inside; otherwise `|p|` is the projection of `|x|` onto the simplex.
    Source: Duchi et al. 2008, as for `projection_simplex`.
    """
    return _l1("projection_l1_ball", tree, scale, _into_cross)


def projection_l1_sphere(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `sum|p| = scale`: `p = sign(x) * max(|x| - t, 0)`.

    Here `t` may be negative and move `x` outward. Zeros move to the positive side (`sign(0) = 1`, although
    the negative one is equally near), so the result always lies on the sphere.
    """
    return _l1("projection_l1_sphere", tree, scale, _onto_cross)
