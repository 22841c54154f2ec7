"""How much memory there is, and how much a compiled program takes."""

from pathlib import Path
from typing import Any

import jax

_FALLBACK = 2 * 2**30


def free_bytes() -> int:
    """What the default device has left, with a margin: most of an accelerator's, half of a computer's."""
    [device] = jax.numpy.zeros(()).devices()  # wherever arrays go by default
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return _host_free() // 2


def _host_free() -> int:
    """What the computer can still give, and the container that this runs in."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):  # another kind of system
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        found.append(limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return max(min(found, default=_FALLBACK), 0)


def needed_bytes(compiled: Any) -> int:
    """What a compiled program holds at once: its arguments, its results and what it needs between."""
    stats = compiled.memory_analysis()
    if stats is None:
        return 0
    return int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device had no room."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
