"""Sums of clipped per-example gradients, for differential privacy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import FLAG, NUMBERS, Number, checked
from gradflow._dtypes import compute_dtype, is_inexact, promote
from gradflow._errors import describe
from gradflow._rules._math import abs_sq
from gradflow._rules._scaled_norm import clip_scalars, rescale, scaled_norms
from gradflow._types import Updates
from gradflow.tree._paths import path_string


@checked(grads=NUMBERS, l2_norm_clip=Number(0))
def per_example_global_norm_clip(grads: Updates, l2_norm_clip: Any) -> tuple[Updates, jax.Array]:
    """Clips the gradient of each example by its norm over all leaves, then sums over examples.

    Args:
      grads: a tree whose leaves have the examples along their first axis.
      l2_norm_clip: the largest norm, > 0; infinity disables clipping.

    Returns the sum, a tree without that axis, and the number of clipped examples. Leaves narrower than
    float32 are summed in it. Raises ValueError for leaves that differ in the number of examples.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    >>> import gradflow as gf
    >>> import numpy as np
    >>> sums, clipped = gf.per_example_global_norm_clip([np.asarray([3.0, 0.5], np.float32)], 1.0)
    >>> float(sums[0]), int(clipped)
    (1.5, 1)
    """
    leaves, structure = _examples("per_example_global_norm_clip", grads)
    if not leaves:
        return grads, jnp.zeros((), np.int32)
    sums, count = _clip_and_sum(leaves, jnp.asarray(l2_norm_clip, np.float32))
    return jax.tree.unflatten(structure, sums), count


@checked(grads=NUMBERS, global_l2_norm_clip=Number(0), uniform=FLAG)
def per_example_layer_norm_clip(
    grads: Updates, global_l2_norm_clip: Any, uniform: bool = True
) -> tuple[Updates, Updates]:
    """Clips the gradient of each example per leaf, then sums over examples.

    Args:
      grads: a tree whose leaves have the examples along their first axis.
      global_l2_norm_clip: the largest norm C of one example over all leaves, > 0.
      uniform: True gives each of K leaves the bound `C / sqrt(K)`, False `C * sqrt(f)` to a leaf with the
        share f of all elements.

    Returns the sum, a tree without that axis, and per leaf the number of clipped examples. Raises
    ValueError for leaves that differ in the number of examples. Source: McMahan et al. 2018,
    arXiv:1710.06963.

    >>> import gradflow as gf
    >>> import numpy as np
    >>> sums, clipped = gf.per_example_layer_norm_clip([np.asarray([3.0, 0.5], np.float32)], 1.0)
    >>> float(sums[0]), int(clipped[0])
    (1.5, 1)
    """
    leaves, structure = _examples("per_example_layer_norm_clip", grads)
    sizes = [leaf.size for leaf in leaves]
    sums, counts = [], []
    for leaf, size in zip(leaves, sizes, strict=True):
        share = 1 / len(leaves) if uniform else size / max(sum(sizes), 1)
        limit = jnp.asarray(global_l2_norm_clip, np.float32) * np.float32(share**0.5)
        (total,), count = _clip_and_sum([leaf], limit)
        sums.append(total)
        counts.append(count)
    return jax.tree.unflatten(structure, sums), jax.tree.unflatten(structure, counts)


def _examples(owner: str, grads: Updates) -> tuple[list[jax.Array], Any]:
    """The leaves in float32 at least; raises ValueError unless all have the same number of examples."""
    structure: Any
    flat, structure = jax.tree_util.tree_flatten_with_path(grads)
    leaves: list[jax.Array] = []
    for path, leaf in flat:
        x = jnp.asarray(leaf)
        wanted = f"{leaves[0].shape[0]} examples" if leaves else "examples"
        if x.ndim == 0 or (leaves and x.shape[0] != leaves[0].shape[0]):
            raise ValueError(
                f"{owner}: argument 'grads' must have {wanted} along the first axis of every leaf; got "
                f"{describe(x)} at '{path_string(path)}'"
            )
        leaves.append(x.astype(compute_dtype(x.dtype) if is_inexact(x.dtype) else np.float32))
    return leaves, structure


@jax.jit
def _clip_and_sum(leaves: list[jax.Array], limit: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    size, power = norms_of_examples(leaves)
    bound = limit.astype(size.dtype)
    factor = clip_scalars(size, power, bound)["factor"]
    clipped = [rescale(x, _along(factor, x), _along(power, x)) for x in leaves]
    return [jnp.sum(x, axis=0) for x in clipped], jnp.sum(size > bound * power, dtype=np.int32)


def norms_of_examples(leaves: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """`scaled_norm` of each example, whose index is the first axis of every leaf."""
    return scaled_norms(_squares, lambda shift, leaves: [_along(shift, x) * x for x in leaves], leaves)


def _squares(leaves: list[jax.Array]) -> jax.Array:
    """The sum of squares of each example, in the widest dtype of the leaves."""
    sums = [jnp.sum(abs_sq(x), axis=tuple(range(1, x.ndim))) for x in leaves]
    widest = functools.reduce(promote, [x.dtype for x in sums])
    return functools.reduce(jnp.add, [x.astype(widest) for x in sums])


def _along(scalars: jax.Array, x: jax.Array) -> jax.Array:
    """One scalar per example, in a shape that broadcasts to a leaf."""
    return jnp.expand_dims(scalars.astype(x.dtype), tuple(range(1, x.ndim)))
