"""What the processes of one run share: compiled programs, and what jax sets up for each of them.

Both are private parts of jax. A version without them compiles all of it again, and the tests are the same.
"""

import os
import threading
from pathlib import Path
from typing import Any

import jax

PROGRAMS_OF_A_CONTEXT = 200


def share_programs(directory: Path) -> None:
    """A program that another process of the run compiled, or this one before it cleared its caches, is read.

    Each process compiles the same few thousand operations; reading one takes a fifth of that. jax's own files
    are written in place, and a half of one is an error to its reader. A key is the program without the names
    and places of its operations: a compiled text may have those of another test.
    """
    from jax._src import compilation_cache

    if not all(
        hasattr(compilation_cache, name) for name in ("CacheInterface", "get_file_cache", "is_cache_used")
    ):
        return
    used = compilation_cache.is_cache_used

    class Programs(compilation_cache.CacheInterface):
        def __init__(self) -> None:
            self._path = directory

        def get(self, key: str) -> bytes | None:
            try:
                return (directory / key).read_bytes()
            except FileNotFoundError:
                return None

        def put(self, key: str, value: bytes) -> None:
            own = directory / f"{key}.{os.getpid()}.{threading.get_ident()}"
            own.write_bytes(value)
            own.replace(directory / key)

    compilation_cache.get_file_cache = lambda path: (Programs(), path)
    # A program for a device that is not there cannot be read.
    compilation_cache.is_cache_used = lambda backend: backend.platform == "cpu" and used(backend)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def share_contexts() -> None:
    """Programs in a row are lowered in one context of MLIR: a new one costs more than a small program's text.

    A context keeps every type and constant that was in it, so it is renewed.
    """
    from jax._src.interpreters import mlir

    make, kept, uses = getattr(mlir, "make_ir_context", None), None, 0
    if make is None:
        return

    def context() -> Any:
        nonlocal kept, uses
        if uses % PROGRAMS_OF_A_CONTEXT == 0:
            kept = make()
        uses += 1
        return kept

    mlir.make_ir_context = context
