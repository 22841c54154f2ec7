"""Errors for arrays that are not where a call needs them. They are looked for after jax refused the call."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from gradflow._errors import describe
from gradflow.tree._paths import path_string, show


def refuse_misplaced(stage: str, arguments: Mapping[str, Any], error: Exception) -> None:
    """Raises the error for the first array on other devices, or on the host, where `error` is jax's own."""
    if not isinstance(error, ValueError):
        return
    if "memory_space" in str(error):
        _refuse_memory_of_host(stage, arguments["state"])
    elif "incompatible devices" in str(error):
        _refuse_other_devices(stage, arguments)


def _refuse_memory_of_host(stage: str, state: Any) -> None:
    for path, leaf in _arrays(state):
        if jax.typeof(leaf).memory_space == jax.memory.Space.Host:
            raise ValueError(
                f"{stage}: argument 'state' must be in the memory of the device; got {describe(leaf)} at "
                f"{path} in that of the host. Update it with offload_state({stage}(...)), "
                "which made it, or move it: jax.device_put(state, jax.memory.Space.Device)"
            ) from None


def _refuse_other_devices(stage: str, arguments: Mapping[str, Any]) -> None:
    first: tuple[str, str, Any] | None = None
    for name, tree in arguments.items():
        for path, leaf in _arrays(tree):
            if isinstance(leaf, jax.core.Tracer) or not leaf.committed:
                continue
            first = first or (name, path, leaf)
            if _devices(leaf) == _devices(first[2]):
                continue
            wanted, other = "all leaves on the same devices", "the leaf"
            if name != first[0]:
                wanted, other = f"its leaves on the devices of '{first[0]}'", f"'{first[0]}'"
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


def _devices(leaf: jax.Array) -> list[Any]:
    """The devices of an array in their order, which counts for jax."""
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        return list(sharding.mesh.devices.flat)
    return sorted(sharding.device_set, key=lambda device: device.id)


def _place(leaf: jax.Array) -> str:
    devices = _devices(leaf)
    numbers = ", ".join(str(device.id) for device in devices[:8]) + (", ..." if len(devices) > 8 else "")
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding):
        return f"device {numbers}"
    sides = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
    return f"the mesh {sides} of devices {numbers}"
