"""Measures free memory, and the memory that a compiled program needs."""

from pathlib import Path
from typing import Any

import jax

_FALLBACK = 2 * 2**30


def free_bytes() -> int:
    """The free memory of the default device, with a margin: 90 % of an accelerator's, half of the host's."""
    [device] = jax.numpy.zeros(()).devices()  # the default device
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return _host_free() // 2


def _host_free() -> int:
    """The free memory of the host, or of the container if that has less."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):  # not Linux
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        found.append(limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # not in a container, or without a limit
        pass
    return max(min(found, default=_FALLBACK), 0)


def needed_bytes(compiled: Any) -> int:
    """The memory of a compiled program: arguments, results and temporary buffers, without aliases."""
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
    """Whether an error is due to a full device."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
