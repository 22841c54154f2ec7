"""The parent: starts the processes, waits for the first one that ends, and ends the others."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gradflow.lab._cli._interruptions import interruptible
from gradflow.lab._distributed._run import PEER_LOST, PROGRAM, Run, read_run, remember

_CAUSE_WITHIN = 1.0  # seconds from the first end that is known to that of the process that caused it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0, 1 if a process died or could not start, 2 for wrong usage."""
    try:
        run = read_run(arguments)
        remember(run)
        with interruptible():
            return train(run)
    except ImportError as error:
        return _error(error, 1)
    except (TypeError, ValueError) as error:
        return _error(error, 2)
    except OSError as error:
        return _error(error, 1)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130


def train(run: Run) -> int:
    """Starts the processes and returns 0 once all are done; 1 if one died, after the others are ended."""
    ended: queue.Queue[tuple[int, int]] = queue.Queue()
    with _processes(run) as children:
        for index, child in enumerate(children):
            print(f"process {index}: pid {child.pid}", flush=True)
            waiting = threading.Thread(target=_report_end, args=(index, child, ended), daemon=True)
            waiting.start()
        for _ in children:
            index, code = ended.get()
            if code != 0:
                dead = _first_dead((index, code), ended)
                break
        else:
            return 0
        began = time.monotonic()
        _end(children)
    print(_describe_end(run, *dead), file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"The others were ended in {seconds:.1f} s. The same command continues.", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _processes(run: Run) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The started processes, all of which are ended after the block."""
    coordinator = f"127.0.0.1:{_free_port()}"
    children: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(run.processes):
            settings = {**dataclasses.asdict(run), "index": index, "coordinator": coordinator}
            with open(_log(run, index), "wb") as log:
                children.append(_start(json.dumps(settings), log))
        yield children
    finally:
        _end(children)


def _start(settings: str, log: Any) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C reaches the parent alone.

    It ends itself when its standard input does, as after the parent was killed.
    """
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "gradflow.lab._distributed._worker", settings],
        stdin=subprocess.PIPE, stderr=log, env=environment, start_new_session=True,
    )  # fmt: skip


def _report_end(index: int, child: subprocess.Popen[bytes], ended: "queue.Queue[tuple[int, int]]") -> None:
    ended.put((index, child.wait()))


def _first_dead(first: tuple[int, int], ended: "queue.Queue[tuple[int, int]]") -> tuple[int, int]:
    """The process whose end caused those of the others, which need not be the first that is known."""
    dead = [first]
    deadline = time.monotonic() + _CAUSE_WITHIN
    with contextlib.suppress(queue.Empty):
        while _rank(dead[-1][1]) != 0:
            dead.append(ended.get(timeout=max(0.0, deadline - time.monotonic())))
    return min(dead, key=lambda end: _rank(end[1]))


def _rank(code: int) -> int:
    """A process ends by a signal from outside (0), by its own error (1), or because another is gone (2).

    The runtime of JAX aborts a process that misses another one.
    """
    if code in (0, PEER_LOST, -signal.SIGABRT):
        return 2
    return 0 if code < 0 else 1


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the processes at once: checkpoints are whole at any time, and an orderly end waits for peers."""
    for child in children:
        if child.poll() is None:
            child.kill()
    for child in children:
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def _describe_end(run: Run, index: int, code: int) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = _log(run, index).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f" Its last line: {lines[-1]}" if code > 0 and lines else ""
    return f"{PROGRAM}: error: process {index} {how}.{last} Its log: {_log(run, index)}"


def _log(run: Run, index: int) -> Any:
    return run.directory / f"process_{index}.log"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _error(message: object, status: int) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return status
