"""Names of types and helpers that libraries import from Optax's private modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree


def canonicalize_dtype(dtype: Any) -> np.dtype | None:
    """A dtype as jax stores it, such as float32 for float64; None stays None."""
    return None if dtype is None else np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def canonicalize_key(key: Any) -> jax.Array:
    """A PRNG key unchanged, and the key of an integer seed."""
    is_seed = isinstance(key, int | np.integer) or (isinstance(key, jax.Array) and key.ndim == 0)
    if is_seed and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        return jax.random.key(key)
    return jnp.asarray(key)


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|^2`, real also for complex numbers."""
    return (x.conj() * x).real


NAMES: dict[str, Any] = {
    "NO_PARAMS_MSG": "update must be called with the parameters: update(updates, state, params)",
    "PRNGKey": jax.Array,
    "PyTree": Any,
    "Shape": tuple[int, ...],
    "abs_sq": abs_sq,
    "canonicalize_dtype": canonicalize_dtype,
    "canonicalize_key": canonicalize_key,
    "cast_tree": tree.cast,
}
