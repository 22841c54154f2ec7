"""Euclidean projections of pytrees: the nearest point of a set, the tree taken as one long vector.

`argmin_p |x - p|^2` over `p` in the set. What holds for every function here:

- Leaves are real and floating point (integers are refused), `None` leaves stay `None`, and a tree
  without any element is returned as it is. Each leaf keeps its dtype; below float32 the
  arithmetic is float32.
- A negative `scale` describes an empty set: a `ValueError` for a number, NaN for a jax array, whose
  value may be traced and so unknown. A box with `lower > upper` likewise, but the array gives
  `upper`.
- Gradients are finite everywhere. A point on the boundary counts as inside (its derivative is the
  identity's); a coordinate that a simplex or an l1 ball has just set to zero counts as zeroed.
  Where several points are nearest (the centre of a sphere) one is chosen, as each function says,
  and the derivative there is taken with that choice held fixed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote
from gradflow._errors import describe, explain_trees, leaves_by_path, path_string

__all__ = [
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]


# Reading arguments.


def _is_none(x: Any) -> bool:
    return x is None


def _is_number(x: Any) -> bool:
    return isinstance(x, bool | int | float | np.number | np.ndarray | jax.Array)


class _Form(NamedTuple):
    """What a list of leaves needs to become the caller's tree again."""

    treedef: Any
    dtypes: list[DType]


def _read(name: str, argument: str, tree: Any) -> tuple[list[jax.Array], _Form]:
    """The leaves in the dtype of their arithmetic, and their form."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves, dtypes = [], []
    for path, leaf in flat:
        if not _is_number(leaf):
            raise TypeError(
                f"{name}: expected numbers or arrays as the leaves of `{argument}`, got"
                f" {describe(leaf)} at '{path_string(path)}'"
            )
        dtype = jnp.result_type(leaf)
        if not is_inexact(dtype) or is_complex(dtype):
            raise TypeError(
                f"{name}: expected real floating-point leaves in `{argument}`, got"
                f" {describe(leaf)} at '{path_string(path)}'"
            )
        dtypes.append(dtype)
        leaves.append(jnp.asarray(leaf, dtype=compute_dtype(dtype)))
    return leaves, _Form(treedef, dtypes)


def _write(leaves: list[jax.Array], form: _Form) -> Any:
    cast = [leaf.astype(dtype) for leaf, dtype in zip(leaves, form.dtypes, strict=True)]
    return jax.tree.unflatten(form.treedef, cast)


def _scalar(name: str, argument: str, value: Any, dtype: DType) -> jax.Array:
    if not _is_number(value) or np.ndim(value) != 0 or is_complex(jnp.result_type(value)):
        raise TypeError(f"{name}: expected `{argument}` to be a real scalar, got {describe(value)}")
    return jnp.asarray(value, dtype=dtype)


def _radius(name: str, scale: Any, dtype: DType) -> jax.Array:
    """`scale` as an array; one that is negative is an error, or NaN when only XLA can see it."""
    radius = _scalar(name, "scale", scale, dtype)
    if isinstance(scale, jax.Array):
        # Looking at the value of a jax array would wait for the device, so traced or not, XLA looks.
        return jnp.where(radius >= 0, radius, jnp.nan)
    if not scale >= 0:
        raise ValueError(f"{name}: expected scale >= 0, got {scale}")
    return radius


def _pair(name: str, x: Any, a: Any) -> tuple[list[jax.Array], list[jax.Array], _Form]:
    """The leaves of `x` and of `a`, which must be a tree of the same shapes, and the form of `x`."""
    xs, form = _read(name, "x", x)
    others, other_form = _read(name, "a", a)
    if form.treedef != other_form.treedef:
        raise ValueError(f"{name}: expected `a` to be a tree like `x`: {explain_trees('x', x, 'a', a)}")
    for path, u, v in zip(_paths(x), xs, others, strict=True):
        if u.shape != v.shape:
            raise ValueError(
                f"{name}: expected `a` to have the shape {u.shape} of `x` at '{path}', got {v.shape}"
            )
    return xs, others, form


def _paths(tree: Any) -> list[str]:
    return [path for path, leaf in leaves_by_path(tree).items() if leaf is not None]


# Arithmetic on lists of leaves, in the widest of their dtypes.


def _wide(leaves: list[jax.Array]) -> DType:
    return functools.reduce(promote, [x.dtype for x in leaves], np.dtype(np.float32))


def _dot(xs: list[jax.Array], ys: list[jax.Array]) -> jax.Array:
    wide = _wide(xs + ys)
    terms = [jnp.sum(x.astype(wide) * y.astype(wide)) for x, y in zip(xs, ys, strict=True)]
    return functools.reduce(jnp.add, terms, jnp.zeros((), wide))


def _magnitude(leaves: list[jax.Array]) -> jax.Array:
    """The largest absolute value, and 1 for a tree of zeros; a constant to differentiation."""
    wide = _wide(leaves)
    parts = [jnp.max(jnp.abs(x), initial=0).astype(wide) for x in leaves]
    largest = functools.reduce(jnp.maximum, parts, jnp.zeros((), wide))
    return jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))


class _Scaled(NamedTuple):
    """`x = s * leaves`: the squares of `leaves` neither overflow nor vanish."""

    s: jax.Array
    leaves: list[jax.Array]
    square: jax.Array  # of the norm of `leaves`; 1 for zero, to be divided by
    is_zero: jax.Array


def _scaled(leaves: list[jax.Array]) -> _Scaled:
    s = _magnitude(leaves)
    scaled = [x / s.astype(x.dtype) for x in leaves]
    square = _dot(scaled, scaled)
    is_zero = square == 0
    return _Scaled(s, scaled, jnp.where(is_zero, 1, square), is_zero)


def _times(factor: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    return [factor.astype(x.dtype) * x for x in leaves]


def _as_vector(leaves: list[jax.Array]) -> jax.Array:
    wide = _wide(leaves)
    return jnp.concatenate([x.astype(wide).ravel() for x in leaves])


def _from_vector(vector: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    ends = np.cumsum([x.size for x in like])[:-1]
    parts = jnp.split(vector, ends)
    return [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, like, strict=True)]


def _is_empty(leaves: list[jax.Array]) -> bool:
    return sum(x.size for x in leaves) == 0


# Boxes: each element by itself.


def _bounds(name: str, argument: str, tree: Any, bound: Any) -> list[Any]:
    """One bound a leaf; a scalar bounds every leaf, `None` bounds nothing."""
    full, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    if bound is None or (_is_number(bound) and np.ndim(bound) == 0):
        given = [bound] * len(full)
    else:
        given, bound_treedef = jax.tree.flatten(bound, is_leaf=_is_none)
        if treedef != bound_treedef:
            raise ValueError(
                f"{name}: expected `{argument}` to be a scalar or a tree like `tree`:"
                f" {explain_trees('tree', tree, argument, bound)}"
            )
    kept = []
    for (path, leaf), b in zip(full, given, strict=True):
        if leaf is None:
            continue
        if b is not None:
            if not _is_number(b) or is_complex(jnp.result_type(b)):
                raise TypeError(
                    f"{name}: expected real bounds in `{argument}`, got {describe(b)} at"
                    f" '{path_string(path)}'"
                )
            shape, wanted = np.shape(b), np.shape(leaf)
            fits = len(shape) <= len(wanted) and all(
                have in (1, want) for have, want in zip(shape[::-1], wanted[::-1], strict=False)
            )
            if not fits:
                raise ValueError(
                    f"{name}: expected `{argument}` to broadcast to the shape {wanted} of `tree` at"
                    f" '{path_string(path)}', got {shape}"
                )
        kept.append(b)
    return kept


def _box(name: str, tree: Any, lower: Any, upper: Any, arguments: tuple[str, str]) -> Any:
    leaves, form = _read(name, "tree", tree)
    lowers = _bounds(name, arguments[0], tree, lower)
    uppers = _bounds(name, arguments[1], tree, upper)
    clipped = []
    for x, lo, hi in zip(leaves, lowers, uppers, strict=True):
        if (
            not (isinstance(lo, jax.Array) or isinstance(hi, jax.Array))
            and np.ndim(lo) == np.ndim(hi) == 0
            and not (lo is None or hi is None)
            and lo > hi
        ):
            raise ValueError(f"{name}: expected lower <= upper, got lower={lo}, upper={hi}")
        # `where` and not `clip`: a point on the boundary is inside, and its derivative is one.
        if lo is not None:
            low = jnp.broadcast_to(jnp.asarray(lo, dtype=x.dtype), x.shape)
            x = jnp.where(x < low, low, x)
        if hi is not None:
            high = jnp.broadcast_to(jnp.asarray(hi, dtype=x.dtype), x.shape)
            x = jnp.where(x > high, high, x)
        clipped.append(x)
    return _write(clipped, form)


def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    """The nearest point with `lower <= p <= upper`: `p = min(max(x, lower), upper)`.

    `lower` and `upper` are scalars, which bound every leaf, or trees like `tree` whose leaves
    broadcast to its leaves; `None`, alone or as a leaf, is no bound.
    """
    return _box("projection_box", tree, lower, upper, ("lower", "upper"))


def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `0 <= p <= scale`, `scale` being a scalar or a tree like `tree`."""
    return _box("projection_hypercube", tree, 0, scale, ("lower", "scale"))


def projection_non_negative(tree: Any) -> Any:
    """The nearest point with `p >= 0`: `p = max(x, 0)`."""
    return _box("projection_non_negative", tree, 0, None, ("lower", "upper"))


def projection_linf_ball(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `max|p| <= scale`: `p = min(max(x, -scale), scale)`."""
    name = "projection_linf_ball"
    leaves, form = _read(name, "tree", tree)
    radius = _radius(name, scale, _wide(leaves))
    clipped = []
    for x in leaves:
        r = radius.astype(x.dtype)
        # Written so that neither a NaN radius nor a NaN element disappears.
        outside = ~((jnp.abs(x) <= r) | jnp.isnan(x))
        clipped.append(jnp.where(outside, jnp.where(x < 0, -r, r), x))
    return _write(clipped, form)


# The simplex and the l1 norm: one threshold for the whole tree.


def _threshold(x: jax.Array, total: jax.Array) -> jax.Array:
    """`max(x - t, 0)` with the `t` that makes the sum `total`, for a vector `x`, `total >= 0`.

    The support is the longest prefix of the sorted vector whose elements exceed the mean excess
    (Duchi et al. 2008). Which elements those are is locally constant, so the derivative passes
    only through the mean over them, `t = (sum_S x - total) / |S|`: no derivative of a sort.
    """
    # The answer does not move with a common shift, and sums of small numbers keep their digits.
    largest = jax.lax.stop_gradient(jnp.max(x))
    x = x - largest
    fixed, wanted = jax.lax.stop_gradient((x, total))
    descending = -jnp.sort(-fixed)
    counts = jnp.arange(1, x.size + 1, dtype=x.dtype)
    excess = (jnp.cumsum(descending) - wanted) / counts
    # Element k belongs to the support while it exceeds the excess of the first k; the first
    # always does, but for total = 0, where it only equals it.
    last = jnp.maximum(jnp.sum(descending > excess) - 1, 0)
    support = fixed > excess[last]
    size = jnp.maximum(jnp.sum(support), 1).astype(x.dtype)
    shifted = x - (jnp.sum(jnp.where(support, x, 0)) - total) / size
    projected = jnp.where(support & (shifted > 0), shifted, 0)
    return jnp.where(jnp.isfinite(largest) & jnp.isfinite(wanted), projected, jnp.nan)


def projection_simplex(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `p >= 0` and `sum(p) = scale`: `p = max(x - t, 0)`.

    One `t` for all leaves, found by sorting: O(n log n) for n elements. `scale >= 0`. Leaves
    below float32 are rounded at the end, so their sum is `scale` only to their own precision.

    Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball for Learning in
    High Dimensions", ICML 2008.
    """
    name = "projection_simplex"
    leaves, form = _read(name, "tree", tree)
    total = _radius(name, scale, _wide(leaves))
    if _is_empty(leaves):
        return tree
    return _write(_from_vector(_threshold(_as_vector(leaves), total), leaves), form)


def _l1(name: str, tree: Any, scale: Any, sphere: bool) -> Any:
    leaves, form = _read(name, "tree", tree)
    radius = _radius(name, scale, _wide(leaves))
    if _is_empty(leaves):
        return tree
    x = _as_vector(leaves)
    # Zero counts as positive, in value and in derivative: the projection of zero is on the sphere.
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    p = sign * _threshold(sign * x, radius)
    if not sphere:
        p = jnp.where(jnp.sum(jax.lax.stop_gradient(sign * x)) <= radius, x, p)
    return _write(_from_vector(p, leaves), form)


def projection_l1_ball(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `sum|p| <= scale`: `p = sign(x) * max(|x| - t, 0)`.

    `x` itself when it is inside; otherwise `|p|` is the projection of `|x|` onto the simplex.
    Duchi et al. 2008, as for `projection_simplex`.
    """
    return _l1("projection_l1_ball", tree, scale, sphere=False)


def projection_l1_sphere(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `sum|p| = scale`: `p = sign(x) * max(|x| - t, 0)`.

    Here `t` may be negative and move `x` outwards. Zeros are moved too, to the positive side
    (`sign(0) = 1`; the negative one is as near), so the result always lies on the sphere.
    """
    return _l1("projection_l1_sphere", tree, scale, sphere=True)


# The l2 norm.


def projection_l2_ball(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `|p|_2 <= scale`: `p = x * min(1, scale / |x|_2)`."""
    name = "projection_l2_ball"
    leaves, form = _read(name, "tree", tree)
    radius = _radius(name, scale, _wide(leaves))
    x = _scaled(leaves)
    norm = jnp.sqrt(x.square)
    inside = (x.is_zero & (radius >= 0)) | (norm * x.s <= radius)
    surface = _times(radius / norm, x.leaves)
    kept = [jnp.where(inside, u, v) for u, v in zip(leaves, surface, strict=True)]
    return _write(kept, form)


def projection_l2_sphere(tree: Any, scale: Any = 1) -> Any:
    """The nearest point with `|p|_2 = scale`: `p = x * scale / |x|_2`.

    Every point is as near to zero: the one with all elements equal, `scale / sqrt(n)`, is chosen,
    and the derivative with respect to `x` there is zero.
    """
    name = "projection_l2_sphere"
    leaves, form = _read(name, "tree", tree)
    radius = _radius(name, scale, _wide(leaves))
    if _is_empty(leaves):
        return tree
    x = _scaled(leaves)
    even = radius / math.sqrt(sum(u.size for u in leaves))
    surface = _times(radius / jnp.sqrt(x.square), x.leaves)
    moved = [jnp.where(x.is_zero, even.astype(u.dtype), u) for u in surface]
    return _write(moved, form)


# Linear sets. A normal of zero describes everything or nothing; its pseudo-inverse, zero, is used.


def _along(
    name: str, x: Any, a: Any, b: Any, amount: Callable[[jax.Array], jax.Array]
) -> tuple[list[jax.Array], list[jax.Array], _Form]:
    """The leaves of `x`, those of `amount(<a, x> - b) / <a, a> * a`, and their form."""
    xs, others, form = _pair(name, x, a)
    normal = _scaled(others)
    inner = _dot(normal.leaves, xs)
    level = _scalar(name, "b", b, inner.dtype) / normal.s.astype(inner.dtype)
    step = amount(inner - level) / normal.square.astype(inner.dtype)
    parts = [v.astype(u.dtype) for u, v in zip(xs, normal.leaves, strict=True)]
    return xs, _times(step, parts), form


def _identity(gap: jax.Array) -> jax.Array:
    return gap


def _excess(gap: jax.Array) -> jax.Array:
    return jnp.where(gap <= 0, 0, gap)


def projection_hyperplane(x: Any, a: Any, b: Any) -> Any:
    """The nearest point with `<a, p> = b`: `p = x - (<a, x> - b) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the answer is `x`.
    """
    xs, along, form = _along("projection_hyperplane", x, a, b, _identity)
    return _write([u - v for u, v in zip(xs, along, strict=True)], form)


def projection_halfspace(x: Any, a: Any, b: Any) -> Any:
    """The nearest point with `<a, p> <= b`: `p = x - max(<a, x> - b, 0) / <a, a> * a`.

    `a` is a tree like `x`, `b` a scalar. With `a = 0` the answer is `x`.
    """
    xs, along, form = _along("projection_halfspace", x, a, b, _excess)
    return _write([u - v for u, v in zip(xs, along, strict=True)], form)


def projection_vector(x: Any, a: Any) -> Any:
    """The nearest point on the line through `a` and the origin: `p = <a, x> / <a, a> * a`.

    `a` is a tree like `x`. With `a = 0` the line is a point, and the answer is zero.
    """
    _, along, form = _along("projection_vector", x, a, 0, _identity)
    return _write(along, form)
