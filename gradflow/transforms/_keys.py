"""PRNG keys as arguments and as state."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._dtypes import compute_dtype
from gradflow._errors import describe
from gradflow._rules._mesh_axes import axes_of
from gradflow._rules._state import zero_scalar
from gradflow._types import Params, Updates
from gradflow.tree._create import alike


def read_key(owner: str, key: Any, seed: Any, *, required: bool = False) -> Any:
    """The key of the arguments `key` and `seed`; 0 with a warning for neither, unless one is `required`."""
    if seed is not None:
        if key is not None:
            raise ValueError(f"{owner}: only one of the arguments 'key' and 'seed' must be given; got both")
        key = seed
    elif key is None and not required:
        warnings.warn(f"{owner}: argument 'key' is None, so every run has the noise of key 0", stacklevel=2)
        key = 0
    check_key(owner, key)
    return key


def check_key(owner: str, key: Any) -> None:
    """Raises TypeError unless `key` is one PRNG key or an integer, the seed of one."""
    integer = isinstance(key, int | np.integer) and not isinstance(key, bool) and -(2**63) <= key < 2**63
    if integer or (isinstance(key, jax.Array) and (key.ndim == 0 if _is_typed(key) else _is_data(key))):
        return
    raise TypeError(f"{owner}: argument 'key' must be one PRNG key or a 64-bit integer; got {describe(key)}")


def key_state(key: Any, params: Params) -> jax.Array:
    """The key's data, plain integers that any format can save, on the parameters' devices."""
    data = key if isinstance(key, jax.Array) and not _is_typed(key) else jax.random.key_data(_typed(key))
    return zero_scalar(params, data.dtype) + data


def next_key(key: Any, state: jax.Array) -> tuple[Any, jax.Array]:
    """The key of this step, of the kind of `key`, and the state for the next one."""
    impl = jax.random.key_impl(key) if isinstance(key, jax.Array) and _is_typed(key) else None
    later, now = jax.random.split(jax.random.wrap_key_data(state, impl=impl))
    return now, jax.random.key_data(later)


def as_key(key: Any) -> Any:
    """The key itself, or that of an integer seed or of a key's data."""
    is_data = isinstance(key, jax.Array) and not _is_typed(key)
    return jax.random.wrap_key_data(key) if is_data else _typed(key)


def next_keys_like(key: Any, state: jax.Array, updates: Updates) -> tuple[Updates, jax.Array]:
    """A tree with one key of this step per leaf, and the state for the next one, from a single split."""
    impl = jax.random.key_impl(key) if isinstance(key, jax.Array) and _is_typed(key) else None
    leaves, structure = jax.tree.flatten(updates)
    later, *keys = jax.random.split(jax.random.wrap_key_data(state, impl=impl), len(leaves) + 1)
    return jax.tree.unflatten(structure, keys), jax.random.key_data(later)


def normal_like(key: Any, updates: Updates, axes: tuple[str, ...] = ()) -> Updates:
    """Normal samples for every leaf, in float32 at least; different ones per device along `axes`."""
    return normal_with_keys(tree.split_key_like(key, updates), updates, axes)


def normal_with_keys(keys: Updates, updates: Updates, axes: tuple[str, ...] = ()) -> Updates:
    """`normal_like` with a tree of keys."""

    def sample(key: Any, g: jax.Array) -> Any:
        for name in axes_of(g, axes):
            key = jax.random.fold_in(key, jax.lax.axis_index(name))
        return alike(g, _normal(key, g.shape, g.dtype))

    return jax.tree.map(sample, keys, updates)


def _normal(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, compute_dtype(dtype))


def _is_typed(key: jax.Array) -> bool:
    return bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))


def _is_data(key: jax.Array) -> bool:
    return key.dtype == np.uint32 and key.ndim == 1


def _typed(key: Any) -> Any:
    return key if isinstance(key, jax.Array) else jax.random.key(key)
