"""The machine's limit: C kernels that are compiled here and timed in the same turns as gradflow."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).parent / "kernels.c"
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
ADAMW_BYTES = 28  # per parameter: g, p, m and v are read, p, m and v written
LARGEST = 2**29  # bytes that one run of the stream moves at most; more is scaled


@functools.cache
def compiled() -> tuple[ctypes.CDLL | None, str]:
    """Returns the library of `kernels.c` and how it was compiled, or None and the reason."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if compiler is None:
        return None, "no C compiler: neither CC, cc, gcc nor clang"
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        for extra in (("-fopenmp",), ()):
            command = [compiler, *FLAGS, *extra, str(SOURCE), "-o", str(library), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                threads = f"{os.cpu_count()} threads" if extra else "one thread: no OpenMP"
                return _loaded(library), f"{compiler} {' '.join(FLAGS[:2])}, {threads}"
            message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
    return None, f"{compiler} failed: {message}"


def _loaded(library: Path) -> ctypes.CDLL:
    """Loads the library with threads that sleep between runs, since spinning ones would slow other code."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        return ctypes.CDLL(str(library))
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
        else:
            os.environ["OMP_WAIT_POLICY"] = before


def _pointer(x: np.ndarray) -> ctypes.c_void_p:
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    return ctypes.c_void_p(x.ctypes.data)


def stream(a: np.ndarray, b: np.ndarray) -> None:
    """`b = (a + b) / 2` in place."""
    library, why = compiled()
    assert library, why
    library.stream(ctypes.c_ssize_t(a.size), _pointer(a), _pointer(b))


def adamw(
    g: np.ndarray, p: np.ndarray, m: np.ndarray, v: np.ndarray, step: int,
    *, rate: float = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, decay: float = 1e-4,
) -> None:  # fmt: skip
    """Takes one AdamW step in place; `step` begins at 1."""
    library, why = compiled()
    assert library, why
    numbers = [ctypes.c_float(x) for x in (rate, b1, b2, eps, decay)]
    arrays = [_pointer(x) for x in (g, p, m, v)]
    library.adamw(ctypes.c_ssize_t(g.size), *arrays, *numbers, ctypes.c_ssize_t(step))


@functools.cache
def _streamed() -> list[np.ndarray]:
    """The arrays of the stream, shared by all rows, since large arrays take longer to make than to stream."""
    return [np.full(LARGEST // 12, x, np.float32) for x in (0.5, 0.25)]


class Limit:
    """A function that is timed in the same turns, and the factor from its time to the limit."""

    def __init__(self, name: str, run: Callable[[], Any], scale: float = 1.0) -> None:
        self.name, self.run, self.scale = name, run, scale


def limits(moved: float, adamw_of: int = 0) -> list[Limit]:
    """Returns the stream of as many bytes, and AdamW in C of `adamw_of` parameters; empty without C."""
    if compiled()[0] is None:
        return []
    size = max(1, int(min(moved, LARGEST)) // 12)
    a, b = (whole[:size] for whole in _streamed())
    found = [Limit("stream", functools.partial(stream, a, b), moved / (12 * size))]
    if adamw_of:
        arrays = [np.full(adamw_of, 0.5, np.float32) for _ in range(4)]
        found.append(Limit("C adamw", functools.partial(adamw, *arrays, step=100)))
    return found
