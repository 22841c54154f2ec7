"""Sets that bound each element separately."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow.projections._trees import project, radius_of, read
from gradflow.tree._bounds import Owner, between, read_bounds


def _box(tree: Any, lower: Any, upper: Any, owner: Owner) -> Any:
    leaves, form = read(owner.name, "tree", tree)
    return project(_into_box, leaves, form, own=(read_bounds(owner, tree, lower, upper),))


def _into_box(leaves: list[jax.Array], bounds: list[tuple[Any, Any]]) -> list[jax.Array]:
    return [between(x, *pair) for x, pair in zip(leaves, bounds, strict=True)]


def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    """Projects onto `lower <= p <= upper`: `p = min(max(x, lower), upper)`.

    Args:
      tree: a tree of real arrays.
      lower: a number or array that broadcasts to every leaf, or a tree like `tree` of them. `None`, alone or
        as a leaf, leaves it unbounded.
      upper: the same from above.
    """
    return _box(tree, lower, upper, Owner("projection_box", "tree"))


def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """Projects onto `0 <= p <= scale`, where `scale` is a scalar or a tree like `tree`."""
    return _box(tree, 0, scale, Owner("projection_hypercube", "tree", upper="scale"))


def projection_non_negative(tree: Any) -> Any:
    """Projects onto `p >= 0`: `p = max(x, 0)`."""
    return _box(tree, 0, None, Owner("projection_non_negative", "tree"))


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
