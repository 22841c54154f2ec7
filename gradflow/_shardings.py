"""Shardings that are part of an array's type: on a mesh with explicit axes."""

import contextlib
from typing import Any

import jax

_shard_alike: Any = None
with contextlib.suppress(ImportError):  # jax 0.11 removed it, and the partitioner chooses
    from jax.experimental.shard_alike import shard_alike as _shard_alike


def with_sharding_of(x: Any, like: Any) -> Any:
    """`x` with the sharding of `like`, an array of its shape, where types carry shardings."""
    if not isinstance(x, jax.Array) or not isinstance(like, jax.Array) or x.shape != like.shape:
        return x
    wanted = jax.typeof(like).sharding
    if wanted.mesh.empty or not wanted.mesh.explicit_axes or jax.typeof(x).sharding == wanted:
        return x
    return jax.sharding.reshard(x, wanted)


def spec_of(x: jax.Array) -> tuple[Any, ...] | None:
    """How the axes of `x` are sharded, where that is part of its type; else None."""
    sharding: Any = jax.typeof(x).sharding
    if sharding.mesh.empty or not sharding.mesh.explicit_axes:
        return None
    return (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))


def reshaped(x: jax.Array, shape: tuple[int, ...], spec: tuple[Any, ...] | None) -> jax.Array:
    """`x` in another shape, sharded as `spec` says where shardings are part of types."""
    if spec is None:
        return x.reshape(shape)
    mesh: Any = jax.typeof(x).sharding.mesh
    wanted = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    return (
        jax.sharding.reshard(x, wanted)
        if x.shape == shape
        else jax.lax.reshape(x, shape, out_sharding=wanted)
    )


def sharded_alike(y: jax.Array, like: jax.Array) -> jax.Array:
    """`y`, which the partitioner shards as it shards `like`, where jax can say so.

    All arrays of one type for which a program says so are sharded alike: jax 0.10 gives them one number.
    """
    if _shard_alike is None:
        return y
    result: jax.Array = _shard_alike(like, y)[1]
    return result
