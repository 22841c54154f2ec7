"""Checks and reductions over axes of examples."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._checked import AXES, TYPED, checked
from gradflow._dtypes import compute_dtype
from gradflow._errors import describe
from gradflow._rules._math import bounded_square, saturated
from gradflow._rules._mesh_axes import refuse_varying
from gradflow.aggregating._aggregator import PerElementUpdates
from gradflow.tree._paths import path_string, show


def check_axis(owner: str, axis: Any) -> tuple[int, ...]:
    """The axes as a tuple; raises TypeError unless they are whole numbers, ValueError for one named twice."""
    axes = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
    if not axes or not all(isinstance(a, int | np.integer) and not isinstance(a, bool) for a in axes):
        raise TypeError(
            f"{owner}: argument 'per_elt_axis' must be a whole number or several; got {describe(axis)}"
        )
    if len(set(axes)) < len(axes):
        raise ValueError(f"{owner}: argument 'per_elt_axis' must name an axis once; got {axes}")
    return axes


@checked(per_elt_updates=TYPED, per_elt_axis=AXES)
def get_batch_size_from_per_elt_updates(
    per_elt_updates: PerElementUpdates, per_elt_axis: int | list[int] | tuple[int, ...]
) -> int:
    """Returns the number of examples of gradients with one or more axes of examples.

    Args:
      per_elt_updates: a tree of arrays.
      per_elt_axis: the axes of the examples, the same for every leaf.

    It is 0 for an empty tree. Raises ValueError naming a leaf without these axes or with another number.

    >>> import gradflow as gf
    >>> import numpy as np
    >>> gf.aggregating.get_batch_size_from_per_elt_updates({"w": np.ones((8, 3))}, 0)
    8
    """
    axes = check_axis("get_batch_size_from_per_elt_updates", per_elt_axis)
    size: int | None = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(per_elt_updates):
        known = all(-leaf.ndim <= a < leaf.ndim for a in axes)
        if not known or len({a % leaf.ndim for a in axes}) < len(axes):
            wanted = f"examples along {'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"
        else:
            here = math.prod(leaf.shape[a] for a in axes)
            if size is None and here == 0:
                wanted = "at least one example"
            elif size in (None, here):
                size = here
                continue
            else:
                wanted = f"{size} examples, like other leaves"
        raise ValueError(
            f"{stage_name()}: gradients must have {wanted}; got {describe(leaf)} at {show(path_string(path))}"
        )
    return size or 0


def means(per_elt_updates: PerElementUpdates, axes: tuple[int, ...]) -> Any:
    """The mean over examples of every leaf, in its own dtype."""
    get_batch_size_from_per_elt_updates(per_elt_updates, axes)
    refuse_varying("a mean", per_elt_updates)
    return jax.tree.map(lambda g: _mean(g, axes), per_elt_updates)


def _mean(g: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return _mean_in(g.astype(compute_dtype(g.dtype)), axes).astype(g.dtype)


def _mean_in(g: jax.Array, axes: tuple[int, ...], *, keepdims: bool = False) -> jax.Array:
    """The mean; a power of two, which does not round, keeps the sum of large numbers finite."""
    count = math.prod(g.shape[a] for a in axes)
    power = 2.0 ** (count - 1).bit_length()
    return jnp.sum(g / power, axis=axes, keepdims=keepdims) * (power / count)


def squared_deviations(per_elt_updates: PerElementUpdates, axes: tuple[int, ...]) -> Any:
    """The sum over examples of the squared distances from their mean, in float32 at least."""

    def deviations(g: jax.Array) -> jax.Array:
        wide = g.astype(compute_dtype(g.dtype))
        return saturated(jnp.sum(bounded_square(wide - _mean_in(wide, axes, keepdims=True)), axis=axes))

    return jax.tree.map(deviations, per_elt_updates)
