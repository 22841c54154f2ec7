"""Random trees, and trees of PRNG keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, DTYPE, FUNCTION, KEY, checked
from gradflow._errors import describe
from gradflow.tree._create import alike
from gradflow.tree._leaves import dtype_of, path_at
from gradflow.tree._paths import is_none, show
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
    keys, _ = jax.tree.flatten(split_key_like(rng_key, target_tree))
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(target_tree)
    return treedef.unflatten(
        [
            _sample(sampler, key, x, dtype_of(x) if dtype is None else dtype, target_tree, i)
            for i, (key, x) in enumerate(zip(keys, leaves, strict=True))
        ]
    )


def _sample(sampler: Any, key: Any, x: Any, dtype: Any, tree: Any, index: int) -> jax.Array:
    try:
        y = sampler(key, np.shape(x), dtype)
    except (TypeError, ValueError) as error:
        present = jax.tree.map(lambda leaf: leaf, tree, is_leaf=is_none)
        raise type(error)(
            f"tree.random_like: argument 'sampler' must support the dtype {dtype} of the leaf at "
            f"{show(path_at(present, index))}; it raised: {error}"
        ) from error
    if getattr(y, "shape", None) != np.shape(x):
        where = show(path_at(jax.tree.map(lambda leaf: leaf, tree, is_leaf=is_none), index))
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
