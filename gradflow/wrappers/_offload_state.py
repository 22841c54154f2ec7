"""Large arrays of a state in the host's memory, on the device one parameter after the other."""

from typing import Any

import jax

from gradflow._calls._reports import collecting, forward, is_collecting, note
from gradflow._calls._scalars import with_scalars_together
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, below, label_of
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._one_after_another import is_hosted, one_after_another


@transformation
def offload_state(inner: GradientTransformation, min_size: int = 65536) -> Pair:
    """Keeps the large arrays of the state of `inner` in the host's memory.

        tx = offload_state(adamw(1e-3))
        state = tx.init(params)

    An update moves them to the device, updates them, and moves them back, parameter by parameter: the next
    ones move once those before are back. On a TPU v5e a step of adamw on 16 equal matrices holds 0.21 of the
    state as scratch memory, with a clip 0.23. All at once they would need 1.13.

    What reads several parameters' arrays at once has them on the device at once, such as a norm of moments or
    matrices that `spread` exchanges: within a step these save nothing. A norm of the gradients does not. With
    ZeRO, write `shard_state(offload_state(adamw(1e-3)), mesh)`.

    Args:
      inner: any transformation.
      min_size: arrays of at least this many numbers move; >= 1. Smaller ones, such as counts, stay.

    Numbers and updates are those of `inner`. Donate the state, so that its memory is used again. On one CPU
    device the memory is the same, and a mesh of CPU devices has no other before jax 0.10.2: `init` moves
    nothing there. A compiled `init` does not know its device; XLA can end the process where its result is
    donated on one CPU device.
    Source: Ren et al. 2021, arXiv:2101.06840.

    >>> import gradflow as gf
    >>> print(gf.offload_state(gf.adamw(1e-3)))
    offload_state(adamw(0.001))
    """
    if min_size < 1:
        raise ValueError(f"offload_state: argument 'min_size' must be at least 1; got {min_size}")

    def init(params: Params) -> OptState:
        def to_host(x: Any) -> Any:
            is_large = isinstance(x, jax.Array) and x.ndim > 0 and x.size >= min_size
            moves = is_large and not _is_in_memory_of_host(x)
            return jax.device_put(x, jax.memory.Space.Host) if moves else x

        return jax.tree.map(to_host, inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        if not any(is_hosted(x) for x in jax.tree.leaves(state)):
            return inner.update(updates, state, params, **extra)
        inner_update = with_scalars_together(inner.update)

        def run(updates: Updates, state: OptState, params: Params | None) -> Any:
            given = jax.tree.map(_to_device, state)
            if not is_collecting():
                new_updates, new_state = inner_update(updates, given, params, **extra)
                return new_updates, jax.tree.map(_back, new_state, state), {}, {}
            with collecting() as recorded:
                new_updates, new_state = inner_update(updates, given, params, **extra)
            reports = below(inner, recorded.values)
            return new_updates, jax.tree.map(_back, new_state, state), reports, recorded.notes

        new_updates, new_state, reports, notes = one_after_another(run, updates, state, params)
        for name, value in notes.items():
            note(name, value)
        label = label_of(inner)
        forward({f"{label}.{name}" if label else name: value for name, value in reports.items()})
        return new_updates, new_state

    return init, update


def _to_device(x: Any) -> Any:
    return jax.device_put(x, jax.memory.Space.Device) if is_hosted(x) else x


def _back(new: Any, old: Any) -> Any:
    """A new array where the old one was."""
    return jax.device_put(new, jax.memory.Space.Host) if is_hosted(old) else new


def _is_in_memory_of_host(x: jax.Array) -> bool:
    """Whether a concrete array lies on CPU devices that have no other memory, as far as known.

    XLA ends the process where an array of one CPU device is donated from the one memory to the other. On a
    mesh of CPUs it left such arrays where they were, or failed, up to jax 0.10.1.
    """
    if isinstance(x, jax.core.Tracer):
        return False
    devices: Any = x.sharding.device_set
    is_one_memory = len(devices) == 1 or jax.__version_info__ < (0, 10, 2)
    return is_one_memory and next(iter(devices)).platform == "cpu"
