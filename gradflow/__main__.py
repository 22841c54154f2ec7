"""`python -m gradflow`: the lab's command line."""

import os
import signal
import sys
import threading
from typing import Any


def main() -> int:
    """Runs the command line. Ctrl-C ends it with code 130, also while modules are imported.

    The process ends at once: an exception in an import leaves extension modules half made, or is lost.
    Commands that train turn Ctrl-C into an exception meanwhile, and keep what is finished.
    """
    if threading.current_thread() is not threading.main_thread():
        return _run()
    before = signal.signal(signal.SIGINT, _end)
    try:
        return _run()
    finally:
        signal.signal(signal.SIGINT, before)


def _run() -> int:
    from gradflow.lab._cli._main import main as run

    return run()


def _end(*_: Any) -> None:
    os.write(2, b"\nInterrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
