"""Programs of accelerators in a process that has a CPU alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from gradflow import _platform


@contextmanager
def accelerator_code() -> Iterator[None]:
    """The same process, as if its CPU were an accelerator."""
    before = _platform.CPU
    jax.clear_caches()
    _platform.CPU = ()
    try:
        yield
    finally:
        _platform.CPU = before
        jax.clear_caches()


def on_tpu(*operands: Any, cpu: Any, accelerator: Any, tpu: Any = None) -> Any:
    return (tpu or accelerator)(*operands)
