"""Parts of states: moments shaped like the parameters, and scalars on their devices."""

import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import is_complex, is_inexact, promote, real_dtype
from gradflow.tree._create import full_leaf


def zero_scalar(params: Any, dtype: Any = np.int32, value: float = 0) -> jax.Array:
    """A scalar on the parameters' devices: replicated on their mesh when they have one.

    A scalar on one device would be returned on the mesh by the first step, so the second step would be
    compiled again.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    scalar = np.asarray(value, dtype)
    if jax.sharding.get_abstract_mesh().manual_axes:
        # Inside shard_map the scalar is replicated; a barrier with a varying leaf would make it vary.
        return jnp.asarray(scalar)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        # Inside jit only the compiler knows the mesh, and it drops unused parameters with their mesh. The
        # barrier makes the scalar depend on a parameter.
        # Symbolic sizes, as in an exported program, cannot be compared.
        smallest = min(leaves, key=lambda leaf: leaf.size if isinstance(leaf.size, int) else sys.maxsize)
        return jax.lax.optimization_barrier((jnp.asarray(scalar), smallest))[0]
    for leaf in leaves:
        sharding = leaf.sharding
        if isinstance(sharding, jax.sharding.NamedSharding) and sharding.mesh.size > 1:
            everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
            return jax.device_put(scalar, everywhere)
    return jnp.array(scalar)


def replicate_like(value: jax.Array, params: Any) -> jax.Array:
    """A value replicated on the parameters' mesh, like `zero_scalar`; a typed PRNG key stays one."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = replicate_like(jax.random.key_data(value), params)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    return zero_scalar(params, value.dtype) + value


def stack_scalars(scalars: Iterable[Any], dtype: Any) -> jax.Array:
    """The scalars as one array, so that a loop carries one buffer.

    Selected by index, because XLA does not fuse a concatenation of scalars.
    """
    scalars = tuple(scalars)
    index = np.arange(len(scalars))
    stacked = jnp.broadcast_to(jnp.asarray(scalars[0], dtype), index.shape)
    for place, scalar in enumerate(scalars[1:], start=1):
        stacked = jnp.where(index == place, jnp.asarray(scalar, dtype), stacked)
    return stacked


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, saturating at the largest number of its type instead of wrapping around."""
    last = np.full(count.shape, np.iinfo(count.dtype).max, count.dtype)
    one = np.ones(count.shape, count.dtype)
    return jax.lax.select(jax.lax.lt(count, last), jax.lax.add(count, one), count)


def first_moment(params: Any, dtype: Any = None) -> Any:
    """Zeros for an average of gradients, in `dtype` or the parameters' dtypes.

    The moment of a complex parameter is complex even if `dtype` is real.
    """
    return jax.tree.map(lambda p: full_leaf(p, 0, moment_dtype(p.dtype, dtype)), params)


def moment_dtype(own: np.dtype, asked: Any) -> np.dtype:
    """The requested dtype or the parameter's own; complex for a complex parameter."""
    if asked is None:
        return own
    return promote(asked, own) if is_complex(own) and not is_complex(asked) else asked


def second_moment(params: Any, value: Any = 0) -> Any:
    """Zeros (or `value`) for an average of squares: real, in float32 at least.

    With decay 0.999 the average moves by a thousandth per step, which bfloat16 rounds away.
    """
    return jax.tree.map(lambda p: full_leaf(p, value, at_least_float32(real_dtype(p.dtype))), params)


def widen_leaf(x: Any) -> Any:
    """A leaf in float32 at least; one that is not floating-point as it is."""
    return x.astype(at_least_float32(x.dtype)) if is_inexact(x.dtype) else x


def at_least_float32(dtype: np.dtype) -> np.dtype:
    """The dtype of averages with a decay near 1: at least float32."""
    return promote(dtype, np.dtype(np.float32))
