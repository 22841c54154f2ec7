"""Random trees, and trees of PRNG keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, DTYPE, FUNCTION, KEY, checked
from gradflow._errors import describe
from gradflow.tree._create import alike
from gradflow.tree._leaves import dtype_of
from gradflow.tree._paths import path_string, show
from gradflow.tree._unstack import unstack


@checked(rng_key=KEY)
def split_key_like(rng_key: jax.Array, target_tree: Any) -> Any:
    """A tree with a different key for each leaf; None leaves stay None."""
    leaves, treedef = jax.tree.flatten(target_tree)
    return treedef.unflatten(unstack(jax.random.split(rng_key, len(leaves))))  # type: ignore[attr-defined]


@checked(rng_key=KEY, target_tree=ARRAYS, sampler=FUNCTION, dtype=DTYPE | None)
def random_like(
    rng_key: jax.Array,
    target_tree: Any,
    sampler: Callable[..., jax.Array] = jax.random.normal,
    dtype: Any = None,
) -> Any:
    """A tree of random leaves with the shapes, dtypes and shardings of `target_tree`.

    Args:
      rng_key: split into one key per leaf.
      target_tree: a tree of arrays or `jax.ShapeDtypeStruct`; None leaves stay None.
      sampler: called as `sampler(key, shape, dtype)` for each leaf.
      dtype: replaces the leaves' own dtypes.
    """
    keys = jax.tree.leaves(split_key_like(rng_key, target_tree))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(target_tree)
    sampled = [
        _sample(sampler, key, x, dtype_of(x) if dtype is None else dtype, show(path_string(path)))
        for key, (path, x) in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, sampled)


def _sample(sampler: Any, key: Any, x: Any, dtype: Any, where: str) -> jax.Array:
    try:
        y = sampler(key, np.shape(x), dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"tree.random_like: argument 'sampler' must support the dtype {dtype} of the leaf at "
            f"{where}; it raised: {error}"
        ) from error
    if getattr(y, "shape", None) != np.shape(x):
        raise TypeError(
            f"tree.random_like: argument 'sampler' must return shape {np.shape(x)} for the leaf at "
            f"{where}; got {describe(y)}"
        )
    return alike(x, y)


def unwrap_random_key_data(input_tree: Any) -> Any:
    """Replaces PRNG keys by their integers, so that they can be compared."""
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if _is_key(x) else x,
        input_tree,
    )


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
