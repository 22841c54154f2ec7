"""The operands of a rule for one matrix: their precision, and what is put in their place."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._calls._context import stage_name
from gradflow._coding._leaves import is_coded
from gradflow._dtypes import compute_dtype, in_dtype_of, is_inexact, promote, real_dtype
from gradflow._shardings import computed_alike, whole_on_mesh_of, with_sharding_of


def at_leaves(structure: Any, tree: Any) -> list[Any]:
    """What a tree has at each leaf of a structure."""
    try:
        return list(structure.flatten_up_to(tree))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{stage_name()}: the state must have something for each leaf of the updates, as init made it "
            f"for these parameters: {error}"
        ) from None


def precision_of(leaves: list[Any]) -> np.dtype:
    kinds = (compute_dtype(leaf.dtype) for leaf in leaves if is_inexact(leaf.dtype))
    return real_dtype(functools.reduce(promote, kinds))


def widened(x: Any, real: np.dtype) -> Any:
    return x.astype(promote(x.dtype, real)) if is_inexact(x.dtype) else x


def whole(x: Any) -> Any:
    """An array that is whole on every device, where shardings are explicit."""
    sharding: Any = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def put_back(leaf_shape: tuple[int, ...], new: Any, old: Any) -> Any:
    """Results in the dtypes, layouts and codes of the tree in whose place they come."""
    if is_coded(old):
        return old.encode(new)
    is_factor = not isinstance(old, jax.Array)

    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        x = put_back_like(leaf_shape, x, y)
        # A factor of a square matrix or of a vector has the leaf's shape, and lies whole beside it. If the
        # partitioner cut it, the next step would be compiled again.
        return whole_on_mesh_of(x, y) if is_factor and x.shape == leaf_shape else x

    return jax.tree.map(one, new, old)


def put_back_exchanged(leaf_shape: tuple[int, ...], new: Any, old: Any) -> Any:
    """Results that have the layout of the tree in whose place they come, in its dtypes.

    `computed_alike` would cut the factors of a vector, too, where they have the shape of these.
    """
    del leaf_shape
    return jax.tree.map(lambda x, y: with_sharding_of(in_dtype_of(x, y), y), new, old)


def put_back_like(leaf_shape: tuple[int, ...], new: jax.Array, old: jax.Array) -> jax.Array:
    """A result in the dtype and the layout of the array in whose place it comes."""
    new = in_dtype_of(new, old)
    sharding: Any = jax.typeof(old).sharding
    if sharding.mesh.explicit_axes:
        return jax.sharding.reshard(new, sharding)
    if new.shape != leaf_shape and new.ndim and is_inexact(new.dtype):
        # A product of a sharded leaf with itself would be sharded, and the next step compiled again for it.
        new = computed_alike(new, old)
    return new
