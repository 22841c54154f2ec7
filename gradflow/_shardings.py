"""Shardings that are part of an array's type: on a mesh with explicit axes."""

from typing import Any

import jax


def with_sharding_of(x: Any, like: Any) -> Any:
    """`x` with the sharding of `like`, an array of its shape, where types carry shardings."""
    if not isinstance(x, jax.Array) or not isinstance(like, jax.Array) or x.shape != like.shape:
        return x
    wanted = jax.typeof(like).sharding
    if wanted.mesh.empty or not wanted.mesh.explicit_axes or jax.typeof(x).sharding == wanted:
        return x
    return jax.sharding.reshard(x, wanted)
