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


class _Context(threading.local):
    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.collectors: list[Any] = []
        self.in_program = False  # whether a compiled update is being traced, or run op by op
        self.inits: list[Any] | None = None  # records of init calls, while `summary` reads them


context = _Context()


@contextmanager
def entered(name: str, label: str | None, reports: frozenset[str]) -> Iterator[None]:
    """Marks the stage `name` as the one being called, under `label` in its container."""
    stack = context.stack
    path = stack[-1].path if stack else ()
    stack.append(Frame(name, (*path, label) if label else path, reports))
    try:
        yield
    finally:
        stack.pop()


@contextmanager
def isolated(is_outermost: bool) -> Iterator[None]:
    """Hides which stages are being called; only whether there are any is kept."""
    before = context.stack, context.in_program
    context.stack, context.in_program = [] if is_outermost else [Frame("", (), frozenset())], True
    try:
        yield
    finally:
        context.stack, context.in_program = before


def stage_name() -> str:
    """The stage being called, as its container calls it; for error messages."""
    if not context.stack:
        return "gradflow"
    return ".".join(context.stack[-1].path) or context.stack[0].name
