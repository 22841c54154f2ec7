"""What states are made of: moments shaped like the parameters, and scalars that live where they do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._dtypes import is_complex, promote, real_dtype


def zero_scalar(params: Any, dtype: Any = np.int32, value: float = 0) -> jax.Array:
    """A scalar on the parameters' devices: replicated on their mesh when they have one.

    A scalar that began on one device would come back from the first step on the mesh, and the
    second step would be compiled again for it.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    scalar = np.asarray(value, dtype)
    if jax.sharding.get_abstract_mesh().manual_axes:
        # Inside shard_map it is the same on every device, which a barrier beside a piece would hide.
        return jnp.asarray(scalar)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        # Inside jit the mesh is known to the compiler alone, which drops unused parameters and their
        # mesh with them: the barrier is what makes the scalar depend on a parameter.
        smallest = min(leaves, key=lambda leaf: leaf.size)
        return jax.lax.optimization_barrier((jnp.asarray(scalar), smallest))[0]
    for leaf in leaves:
        sharding = leaf.sharding
        if isinstance(sharding, jax.sharding.NamedSharding) and sharding.mesh.size > 1:
            everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
            return jax.device_put(scalar, everywhere)
    return jnp.array(scalar)


def replicate_like(value: jax.Array, params: Any) -> jax.Array:
    """A value where `zero_scalar` puts one: replicated on the parameters' mesh."""
    return zero_scalar(params, value.dtype) + value


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, staying at the last number of its type instead of wrapping to a negative one."""
    last = np.asarray(np.iinfo(count.dtype).max, count.dtype)
    return jnp.where(count < last, count + np.ones((), count.dtype), count)


def first_moment(params: Any, dtype: Any = None) -> Any:
    """Zeros for an average of gradients, in the parameters' dtypes unless told otherwise.

    Where a real dtype is asked for, a complex parameter's moment is complex all the same.
    """
    return jax.tree.map(lambda p: tree.zeros_like(p, moment_dtype(p.dtype, dtype)), params)


def moment_dtype(own: np.dtype, asked: Any) -> np.dtype:
    """The dtype asked for, or the parameter's own; never a real one for a complex parameter."""
    if asked is None:
        return own
    return promote(asked, own) if is_complex(own) and not is_complex(asked) else asked


def second_moment(params: Any, dtype: Any = None, value: Any = 0) -> Any:
    """Zeros (or `value`) for an average of squares: real, and float32 at least unless told otherwise.

    With decay 0.999 the average moves by a thousandth a step, which bfloat16 rounds to nothing.
    """
    return jax.tree.map(
        lambda p: tree.full_like(p, value, dtype or at_least_float32(real_dtype(p.dtype))), params
    )


def at_least_float32(dtype: np.dtype) -> np.dtype:
    """The dtype in which averages with a decay near 1 are held: float32 at least."""
    return promote(dtype, np.dtype(np.float32))
