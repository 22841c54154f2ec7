"""Sets that bound each element separately."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import is_number_or_array
from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow.projections._trees import is_none, project, radius_of, read
from gradflow.tree._leaves import broadcasts_to, is_array_like
from gradflow.tree._paths import path_string, show
from gradflow.tree._structure import explain_trees


def _bounds(name: str, argument: str, tree: Any, bound: Any) -> list[Any]:
    """One bound per leaf; a scalar bounds every leaf, `None` bounds nothing."""
    full, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)
    if bound is None or (is_array_like(bound) and np.ndim(bound) == 0):
        given = [bound] * len(full)
    else:
        given = jax.tree.leaves(bound, is_leaf=is_none)
        structures: list[Any] = [jax.tree.structure(t, is_leaf=is_none) for t in (tree, bound)]
        if structures[0] != structures[1]:
            raise ValueError(
                f"{name}: argument '{argument}' must be a scalar or a tree like 'tree':"
                f" {explain_trees('tree', tree, argument, bound)}"
            )
    kept = []
    for (path, leaf), b in zip(full, given, strict=True):
        if leaf is None:
            continue
        if b is not None:
            if not is_number_or_array(b) or is_complex(jnp.result_type(b)):
                raise TypeError(
                    f"{name}: argument '{argument}' must have real bounds; got {describe(b)} at"
                    f" {show(path_string(path))}"
                )
            shape, wanted = np.shape(b), np.shape(leaf)
            if not broadcasts_to(shape, wanted):
                raise ValueError(
                    f"{name}: argument '{argument}' must broadcast to the shape {wanted} of 'tree' at"
                    f" {show(path_string(path))}; got {shape}"
                )
        kept.append(float(b) if isinstance(b, int) else b)
    return kept


def _box(name: str, tree: Any, lower: Any, upper: Any, arguments: tuple[str, str]) -> Any:
    leaves, form = read(name, "tree", tree)
    lowers = _bounds(name, arguments[0], tree, lower)
    uppers = _bounds(name, arguments[1], tree, upper)
    for lo, hi in zip(lowers, uppers, strict=True):
        # Only numbers: reading the value of a jax array would wait for the device.
        if isinstance(lo, int | float) and isinstance(hi, int | float) and lo > hi:
            raise ValueError(f"{name}: argument 'lower' must be <= 'upper'; got lower={lo}, upper={hi}")
    return project(_into_box, leaves, form, lowers, uppers)


def _into_box(leaves: list[jax.Array], lowers: list[Any], uppers: list[Any]) -> list[jax.Array]:
    # `where` and not `clip`: a point on the boundary is inside, and its derivative is one.
    clipped = []
    for x, lower, upper in zip(leaves, lowers, uppers, strict=True):
        if lower is not None:
            low = jnp.broadcast_to(lower.astype(x.dtype), x.shape)
            x = jnp.where(x < low, low, x)
        if upper is not None:
            high = jnp.broadcast_to(upper.astype(x.dtype), x.shape)
            x = jnp.where(x > high, high, x)
        clipped.append(x)
    return clipped


def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    """Projects onto `lower <= p <= upper`: `p = min(max(x, lower), upper)`.

    Args:
      tree: a tree of real arrays.
      lower: a scalar for every leaf, or a tree like `tree` whose leaves broadcast to its leaves. `None`,
        alone or as a leaf, leaves it unbounded.
      upper: the same from above.
    """
    return _box("projection_box", tree, lower, upper, ("lower", "upper"))


def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `0 <= p <= scale`, where `scale` is a scalar or a tree like `tree`."""
    return _box("projection_hypercube", tree, 0, scale, ("lower", "scale"))


def projection_non_negative(tree: Any) -> Any:
    """Projects onto `p >= 0`: `p = max(x, 0)`."""
    return _box("projection_non_negative", tree, 0, None, ("lower", "upper"))


def projection_linf_ball(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `max|p| <= scale`: `p = min(max(x, -scale), scale)`."""
    name = "projection_linf_ball"
    leaves, form = read(name, "tree", tree)
    return project(_into_cube, leaves, form, radius_of(name, scale, form))


def _into_cube(leaves: list[jax.Array], radius: jax.Array) -> list[jax.Array]:
    clipped = []
    for x in leaves:
        r = radius.astype(x.dtype)
        # Written so that a NaN radius and a NaN element propagate.
        outside = ~((jnp.abs(x) <= r) | jnp.isnan(x))
        clipped.append(jnp.where(outside, jnp.where(x < 0, -r, r), x))
    return clipped
