"""The l2 norm, and linear sets: one scalar product for the whole tree."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import compute_dtype
from gradflow.projections._trees import (
    dot,
    is_empty,
    project,
    radius_of,
    read,
    read_pair,
    scalar,
    scaled_down,
    times,
)


def projection_l2_ball(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `|p|_2 <= scale`: `p = x * min(1, scale / |x|_2)`."""
    name = "projection_l2_ball"
    leaves, form = read(name, "tree", tree)
    return project(_into_ball, leaves, form, radius_of(name, scale, form))


def _into_ball(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    x = scaled_down(leaves)
    norm = jnp.sqrt(x.square)
    inside = (x.is_zero & (radius >= 0)) | (norm * x.s <= radius)
    surface = times(radius / norm, x.leaves)
    return [jnp.where(inside, u, v) for u, v in zip(leaves, surface, strict=True)]


def projection_l2_sphere(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `|p|_2 = scale`: `p = x * scale / |x|_2`.

    All points are equally near to zero. The one with all elements equal, `scale / sqrt(n)`, is chosen,
    and the derivative with respect to `x` there is zero.
    """
    name = "projection_l2_sphere"
    leaves, form = read(name, "tree", tree)
    radius = radius_of(name, scale, form)
    return tree if is_empty(leaves) else project(_onto_sphere, leaves, form, radius)


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


def projection_hyperplane(x: Any, a: Any, b: Any) -> Any:
    """Projects onto `<a, p> = b`: `p = x - (<a, x> - b) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the result is `x`.
    """
    name = "projection_hyperplane"
    xs, normal, form = read_pair(name, x, a)
    return project(_onto_plane, xs, form, normal, scalar(name, "b", b, form.widest))


def projection_halfspace(x: Any, a: Any, b: Any) -> Any:
    """Projects onto `<a, p> <= b`: `p = x - max(<a, x> - b, 0) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the result is `x`.
    """
    name = "projection_halfspace"
    xs, normal, form = read_pair(name, x, a)
    return project(_into_halfspace, xs, form, normal, scalar(name, "b", b, form.widest))


def projection_vector(x: Any, a: Any) -> Any:
    """Projects onto the line through `a` and the origin: `p = <a, x> / <a, a> * a`.

    `a` is a tree like `x`. With `a = 0` the line is a point, and the result is zero.
    """
    xs, line, form = read_pair("projection_vector", x, a)
    return project(_onto_line, xs, form, line)
