"""Ctrl-C during training: what is finished is kept."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt in this block.

    Python drops an exception that is raised in a callback of its garbage collector, and jax has one. It is
    raised again a little later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    timers: list[threading.Timer] = []

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            timers.append(threading.Timer(0.05, _thread.interrupt_main))
            timers[-1].start()
        else:
            hook(lost)

    sys.unraisablehook = again
    try:
        yield
        for timer in timers:
            timer.join()  # so that it is raised here, in the block
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)
