"""The l2 norm, and linear sets: one scalar product for the whole tree."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import compute_dtype
from gradflow._products import full_product
from gradflow.projections._trees import (
    Rule,
    as_vector,
    dot,
    from_vector,
    is_empty,
    matrix_and_offset,
    project,
    radius_of,
    read,
    read_axes,
    read_pair,
    scalar,
    scaled_down,
    times,
)


def projection_l2_ball(tree: Any, scale: Any = 1, axis: Any = None) -> Any:
    """Projects onto `|p|_2 <= scale`: `p = x * min(1, scale / |x|_2)`.

    `axis` gives each vector along these axes of a leaf a ball of its own.
    """
    name = "projection_l2_ball"
    leaves, form = read(name, "tree", tree)
    axes = read_axes(name, "tree", tree, axis)
    return project(_into_ball, leaves, form, radius_of(name, scale, form), axes=axes)


def _into_ball(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    x = scaled_down(leaves)
    norm = jnp.sqrt(x.square)
    inside = (x.is_zero & (radius >= 0)) | (norm * x.s <= radius)
    # An infinite radius, in a branch that is not taken, would make derivatives NaN.
    surface = times(jnp.where(inside, 0, radius) / norm, x.leaves)
    return [jnp.where(inside, u, v) for u, v in zip(leaves, surface, strict=True)]


def projection_l2_sphere(tree: Any, scale: Any = 1, axis: Any = None) -> Any:
    """Projects onto `|p|_2 = scale`: `p = x * scale / |x|_2`.

    All points are equally near to zero. The one with all elements equal, `scale / sqrt(n)`, is chosen,
    and the derivative with respect to `x` there is zero. A sphere is not convex: methods that need a convex
    set, such as `fista`, may end in a point that is not the best. `axis` gives each vector along these axes
    of a leaf a sphere of its own.
    """
    name = "projection_l2_sphere"
    leaves, form = read(name, "tree", tree)
    radius, axes = radius_of(name, scale, form), read_axes(name, "tree", tree, axis)
    return tree if is_empty(leaves) else project(_onto_sphere, leaves, form, radius, axes=axes)


def _onto_sphere(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    x = scaled_down(leaves)
    even = radius / math.sqrt(sum(u.size for u in leaves))
    surface = times(radius / jnp.sqrt(x.square), x.leaves)
    return [jnp.where(x.is_zero, even.astype(u.dtype), u) for u in surface]


# Linear sets. A zero normal describes all points or none; its pseudo-inverse, zero, is used.


def _along(xs: list[jax.Array], a: list[jax.Array], b: jax.Array, one_sided: bool) -> list[jax.Array]:
    """`(<a, x> - b) / <a, a> * a`, or zero where `one_sided` and `<a, x> <= b`."""
    normal = scaled_down([u.astype(compute_dtype(u.dtype)) for u in a])
    inner = dot(normal.leaves, xs)
    gap = inner - b.astype(inner.dtype) / normal.s.astype(inner.dtype)
    if one_sided:
        gap = jnp.where(gap <= 0, 0, gap)
    parts = [v.astype(u.dtype) for u, v in zip(xs, normal.leaves, strict=True)]
    return times(gap / normal.square.astype(inner.dtype), parts)


def _onto_plane(xs: list[jax.Array], a: list[jax.Array], b: jax.Array) -> list[jax.Array]:
    return [u - v for u, v in zip(xs, _along(xs, a, b, one_sided=False), strict=True)]


def _into_halfspace(xs: list[jax.Array], a: list[jax.Array], b: jax.Array) -> list[jax.Array]:
    return [u - v for u, v in zip(xs, _along(xs, a, b, one_sided=True), strict=True)]


def _onto_line(xs: list[jax.Array], a: list[jax.Array]) -> list[jax.Array]:
    return _along(xs, a, jnp.zeros((), jnp.float32), one_sided=False)


def projection_hyperplane(x: Any, a: Any, b: Any, axis: Any = None) -> Any:
    """Projects onto `<a, p> = b`: `p = x - (<a, x> - b) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the result is `x`. `axis` gives each vector along these
    axes of a leaf a plane of its own; `a` may then be shared, as an array that broadcasts.
    """
    return _linear("projection_hyperplane", _onto_plane, x, a, axis, b)


def projection_halfspace(x: Any, a: Any, b: Any, axis: Any = None) -> Any:
    """Projects onto `<a, p> <= b`: `p = x - max(<a, x> - b, 0) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the result is `x`. `axis` as in
    `projection_hyperplane`.
    """
    return _linear("projection_halfspace", _into_halfspace, x, a, axis, b)


def projection_vector(x: Any, a: Any, axis: Any = None) -> Any:
    """Projects onto the line through `a` and the origin: `p = <a, x> / <a, a> * a`.

    `a` is a tree like `x`. With `a = 0` the line is a point, and the result is zero. `axis` as in
    `projection_hyperplane`.
    """
    return _linear("projection_vector", _onto_line, x, a, axis)


def _linear(name: str, rule: Rule, x: Any, a: Any, axis: Any, *offset: Any) -> Any:
    xs, normal, form = read_pair(name, x, a, broadcast=axis is not None)
    axes = read_axes(name, "x", x, axis)
    shared = [scalar(name, "b", b, form.widest) for b in offset]
    return project(rule, xs, form, *shared, own=(normal,), axes=axes)


def projection_affine_set(x: Any, A: Any, b: Any, axis: Any = None) -> Any:
    """Projects onto `A p = b`: `p = x - A^+ (A x - b)`, with the pseudo-inverse of `A`.

    Args:
      x: a tree of real arrays, with n numbers.
      A: (m, n); the columns belong to the numbers of `x` in the order of its leaves. Rows may depend on each
        other. If no point satisfies all of them, those with the smallest `|A p - b|_2` are the set.
      b: (m,).
      axis: gives each vector along these axes of a leaf a set of its own, with the same `A` and `b`.

    Directions of `A` below `max(m, n) * eps` of its largest count as zero. Derivatives with respect to `A`
    are those while its rank stays the same; they are of the first order.
    """
    name = "projection_affine_set"
    leaves, form = read(name, "x", x)
    axes = read_axes(name, "x", x, axis)
    matrix, offset = matrix_and_offset(name, x, A, b, form, axes)
    return x if is_empty(leaves) else project(_onto_affine, leaves, form, matrix, offset, axes=axes)


def _onto_affine(leaves: list[jax.Array], matrix: jax.Array, offset: jax.Array) -> list[jax.Array]:
    """The point by the pseudo-inverse, and one Newton step from it on `p - x + A^T y = 0`, `A p = b`.

    The step gains the digits that the inverse lost, and its derivatives are those of the solution.
    """
    x = as_vector(leaves)
    fixed = jax.lax.stop_gradient(matrix)
    inverse = jnp.linalg.pinv(fixed)
    start = jax.lax.stop_gradient(x)
    y = full_product(
        inverse.T, full_product(inverse, full_product(fixed, start) - jax.lax.stop_gradient(offset))
    )
    p = start - full_product(fixed.T, y)
    off = p - x + full_product(matrix.T, y)
    inside = full_product(inverse, full_product(fixed, off))
    return from_vector(p - (off - inside) - full_product(inverse, full_product(matrix, p) - offset), leaves)
