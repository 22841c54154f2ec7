"""Errors for arrays that are not where a call needs them.

They are looked for after jax refused the call. Under jit it refuses programs for two numbers of devices once
they are traced, so these are looked for before.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from gradflow._calls._context import stage_name
from gradflow._errors import describe
from gradflow._shardings import mesh_sides
from gradflow.tree._paths import path_string, show

# What jax says of two meshes with explicit axes, without and with one that is set.
_OF_MESHES = ("Mesh for all inputs should be equal", "should match the aval mesh")


def refuse_misplaced(stage: str, arguments: Mapping[str, Any], error: Exception) -> None:
    """Raises the error for the first array on other devices, or on the host, where `error` is jax's own."""
    if not isinstance(error, ValueError):
        return
    if "memory_space" in str(error):
        _refuse_memory_of_host(stage, arguments.get("state"))
    elif "incompatible devices" in str(error):
        _refuse_unlike(stage, arguments, _committed_devices, "devices")
    elif any(words in str(error) for words in _OF_MESHES):
        _refuse_unlike(stage, arguments, _explicit_mesh, "mesh")


def check_numbers_of_devices(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first traced array on a mesh of another number of devices.

    Under jit the type of an argument has the axes of its mesh and their sizes, and not the devices. Every
    trace runs this, so it enters no function per leaf.
    """
    sizes = set()
    for leaf in jax.tree.leaves(arguments):
        if isinstance(leaf, jax.core.Tracer):
            sharding = getattr(jax.typeof(leaf), "sharding", None)
            if sharding is not None and not sharding.mesh.empty:
                sizes.add(sharding.mesh.size)
    if len(sizes) > 1:
        _refuse_unlike(stage_name(), arguments, _size_of_traced, "devices")


def _refuse_memory_of_host(stage: str, state: Any) -> None:
    for path, leaf in _arrays(state):
        if jax.typeof(leaf).memory_space == jax.memory.Space.Host:
            raise ValueError(
                f"{stage}: argument 'state' must be in the memory of the device; got {describe(leaf)} at "
                f"{path} in that of the host. Update it with offload_state({stage}(...)), "
                "which made it, or move it: jax.device_put(state, jax.memory.Space.Device)"
            ) from None


def _refuse_unlike(
    stage: str, arguments: Mapping[str, Any], where: Callable[[jax.Array], Any], what: str
) -> None:
    """Raises the error for the first array whose `where` is not that of the first; None does not count."""
    first: tuple[str, str, Any] | None = None
    for name, tree in arguments.items():
        for path, leaf in _arrays(tree):
            here = where(leaf)
            if here is None:
                continue
            first = first or (name, path, leaf)
            if here == where(first[2]):
                continue
            wanted, other = f"all leaves on the same {what}", "the leaf"
            if name != first[0]:
                wanted, other = f"its leaves on the {what} of '{first[0]}'", f"'{first[0]}'"
            raise ValueError(
                f"{stage}: argument '{name}' must have {wanted}; got {describe(leaf)} at {path} on "
                f"{_place(leaf)}, and {other} at {first[1]} on {_place(first[2])}."
                + (_MOVE_STATE if name == "state" and first[0] != "state" else "")
            ) from None


_MOVE_STATE = " Move it: jax.device_put(state, gradflow.sharding.state_sharding(tx, params))"


def _arrays(tree: Any) -> Iterator[tuple[str, jax.Array]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array):
            yield show(path_string(keys)), leaf


def _committed_devices(leaf: jax.Array) -> list[Any] | None:
    return None if isinstance(leaf, jax.core.Tracer) or not leaf.committed else _devices(leaf)


def _explicit_mesh(leaf: jax.Array) -> Any:
    mesh: Any = jax.typeof(leaf).sharding.mesh
    return mesh if mesh.explicit_axes else None


def _size_of_traced(leaf: jax.Array) -> int | None:
    sharding: Any = getattr(jax.typeof(leaf), "sharding", None) if isinstance(leaf, jax.core.Tracer) else None
    return None if sharding is None or sharding.mesh.empty else sharding.mesh.size


def _devices(leaf: jax.Array) -> list[Any]:
    """The devices of an array in their order, which counts for jax."""
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        return list(sharding.mesh.devices.flat)
    return sorted(sharding.device_set, key=lambda device: device.id)


def _place(leaf: jax.Array) -> str:
    if isinstance(leaf, jax.core.Tracer):
        return f"the mesh {mesh_sides(jax.typeof(leaf).sharding.mesh)}"
    devices = _devices(leaf)
    numbers = ", ".join(str(device.id) for device in devices[:8]) + (", ..." if len(devices) > 8 else "")
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding):
        return f"device {numbers}"
    return f"the mesh {mesh_sides(sharding.mesh)} of devices {numbers}"
