"""Shardings that are part of types, on a mesh with explicit axes, and those that the partitioner chooses."""

import contextlib
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

_shard_alike: Any = None
with contextlib.suppress(ImportError):  # jax 0.11 removed it
    from jax.experimental.shard_alike import shard_alike as _shard_alike


def with_sharding_of(x: Any, like: Any) -> Any:
    """`x` with the sharding of `like`, an array of its shape, where types carry shardings."""
    if not isinstance(x, jax.Array) or not isinstance(like, jax.Array) or x.shape != like.shape:
        return x
    wanted = jax.typeof(like).sharding
    if wanted.mesh.empty or not wanted.mesh.explicit_axes or jax.typeof(x).sharding == wanted:
        return x
    return jax.sharding.reshard(x, wanted)


def is_on_mesh(x: Any) -> bool:
    """Whether an array is on several devices, as its type says; with automatic axes, too, and under jit."""
    mesh: Any = jax.typeof(x).sharding.mesh
    return not mesh.empty and mesh.size > 1


def is_on_cpus(x: Any) -> bool:
    """Whether a traced array is on several CPU devices, as its type says, and not mapped over them."""
    if not isinstance(x, jax.core.Tracer) or jax.sharding.get_abstract_mesh().manual_axes:
        return False
    device: Any = getattr(jax.typeof(x).sharding.mesh, "abstract_device", None)
    return is_on_mesh(x) and getattr(device, "device_kind", None) == "cpu"


def whole_on_mesh_of(x: Any, like: Any) -> Any:
    """`x` whole on each device of the mesh of `like`, in a trace where the partitioner would place it."""
    mesh: Any = jax.typeof(like).sharding.mesh
    if not isinstance(x, jax.core.Tracer) or not is_on_mesh(like) or set(mesh.axis_types) != {AxisType.Auto}:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def mesh_sides(mesh: Any) -> str:
    """The axes of a mesh and their sizes, such as `data=4, model=2`."""
    return ", ".join(f"{name}={size}" for name, size in mesh.shape.items())


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
    wanted = NamedSharding(mesh, PartitionSpec(*spec))
    return (
        jax.sharding.reshard(x, wanted)
        if x.shape == shape
        else jax.lax.reshape(x, shape, out_sharding=wanted)
    )


def computed_alike(y: jax.Array, like: jax.Array) -> jax.Array:
    """A result `y` that the partitioner shards as it shards `like`.

    Unlike in `sharded_alike`, the shardings of what `y` is computed from do not count. All arrays of one type
    for which a program says so are sharded alike: jax 0.10 gives them one number, and so does `_grouped`.
    """
    if _shard_alike is None and jax.sharding.get_abstract_mesh().manual_axes:
        return y
    result: jax.Array = _grouped().bind(y, like) if _shard_alike is None else _shard_alike(like, y)[1]
    return result


@functools.cache
def _grouped() -> Any:
    """A primitive that returns its first operand, in a program for several devices sharded as its second."""
    grouped = type(jax.lax.add_p)("grouped")
    grouped.def_impl(lambda y, like: y)
    grouped.def_abstract_eval(lambda y, like: y)
    ad.primitive_jvps[grouped] = lambda values, tangents: (grouped.bind(*values), tangents[0])
    batching.primitive_batchers[grouped] = lambda values, axes: (
        grouped.bind(*values) if axes[0] == axes[1] else values[0],
        axes[0],
    )
    mlir.register_lowering(grouped, _lowered_group)
    return grouped


def _lowered_group(ctx: Any, y: Any, like: Any) -> list[Any]:
    if _devices(ctx) > 1 and getattr(jax.config, "jax_use_shardy_partitioner", True):
        from jaxlib.mlir.dialects import sdy

        aval = ctx.avals_out[0]
        number = zlib.crc32(repr((aval.shape, str(aval.dtype))).encode())  # the same in each process
        for value in (y, like):
            sdy.sharding_group(value, number)
    return [y]


def sharded_alike(y: jax.Array, like: jax.Array) -> jax.Array:
    """`y`, such as zeros, which the partitioner shards as it shards `like`, an array of its shape.

    It is chosen, never `like`, by a truth value that XLA knows after it has partitioned the program. So each
    leaf has the sharding of its own parameter, and nothing is read or held for the choice.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return y
    real = like.real if jnp.iscomplexobj(like) and not jnp.iscomplexobj(y) else like
    other = jax.lax.convert_element_type(jax.lax.stop_gradient(real), y.dtype)
    result: jax.Array = jax.lax.select_n(_known_late().bind(), y, other)
    return result


@functools.cache
def _known_late() -> Any:
    """A primitive that is False, in a program for several devices behind a constraint of its sharding.

    Shardy and the passes before it fold other choices that never happen: constants, `x < x`, unsigned
    numbers below zero. They leave a constraint alone, and partitioning removes it.
    """
    known = type(jax.lax.add_p)("known_late")  # the class itself is in jax.extend, which imports for 0.1 s
    known.def_impl(lambda: jnp.zeros((), bool))
    known.def_abstract_eval(lambda: jax.core.ShapedArray((), np.dtype(bool)))
    mlir.register_lowering(known, lambda ctx: mlir.lower_fun(_false_on(ctx), multiple_results=False)(ctx))
    return known


def _false_on(ctx: Any) -> Callable[[], jax.Array]:
    devices = _devices(ctx)
    if devices == 1:
        return lambda: jnp.zeros((), bool)
    # Lowering knows how many devices there are and not which: a number that is whole on any mesh is on all.
    whole = NamedSharding(AbstractMesh((devices,), ("devices",)), PartitionSpec())
    return lambda: jax.lax.with_sharding_constraint(jnp.zeros((), bool), whole)


def _devices(ctx: Any) -> int:
    return getattr(ctx.module_context.axis_context, "num_devices", None) or 1
