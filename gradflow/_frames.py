"""Which stage is being called: the names that errors and reports use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """One call of a stage's init or update."""

    name: str
    path: tuple[str, ...]
    reports: frozenset[str]


class _Frames(threading.local):
    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.collectors: list[Any] = []
        self.inits: list[Any] | None = None  # who was initialised with what, while somebody asks


frames = _Frames()


@contextmanager
def entered(name: str, label: str | None, reports: frozenset[str]) -> Iterator[None]:
    """Marks the stage `name` as the one being called, under `label` in its container."""
    stack = frames.stack
    path = stack[-1].path if stack else ()
    stack.append(Frame(name, (*path, label) if label else path, reports))
    try:
        yield
    finally:
        stack.pop()


@contextmanager
def alone(outermost: bool) -> Iterator[None]:
    """Forgets for a while which stages are being called, and only knows whether there are any."""
    stack, frames.stack = frames.stack, [] if outermost else [Frame("", (), frozenset())]
    try:
        yield
    finally:
        frames.stack = stack


def stage_name() -> str:
    """The stage being called, as its container calls it; for error messages."""
    if not frames.stack:
        return "gradflow"
    return ".".join(frames.stack[-1].path) or frames.stack[0].name
