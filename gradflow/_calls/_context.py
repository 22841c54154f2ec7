"""Which stage is being called, for errors and reports."""

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
        self.inits: list[Any] | None = None  # records of init calls, while `summary` reads them
        self.matrices: list[Any] | None = None  # what stages take as matrices, while `summary` reads it
        self.spread: Any = None  # how matrices are shared out over a mesh, inside `spread`
        self.stacks: Any = None  # which leaves are in one stack, inside `stacked`
        self.shards: Any = None  # where the pieces of parameters and state lie, inside `shard_state`
        # What `shard_state` leaves whole and what `spread` exchanges, while `communication` reads it.
        self.whole_leaves: list[Any] | None = None
        self.spread_groups: list[Any] | None = None
        self.wrong_leaves: list[TypeError] = []  # that stages passed on, during an init
        self.scalars: Any = None  # numbers of the step being traced
        self.decodes = False  # whether the stages being called may get coded leaves
        self.in_program = False  # whether a compiled update is being traced, or run op by op


context = _Context()


@contextmanager
def entered(name: str, label: str | None, reports: frozenset[str]) -> Iterator[None]:
    """Makes the stage `name`, under `label` in its container, the one being called in this block."""
    stack = context.stack
    path = stack[-1].path if stack else ()
    stack.append(Frame(name, (*path, label) if label else path, reports))
    try:
        yield
    finally:
        stack.pop()


@contextmanager
def unrecorded() -> Iterator[None]:
    """What is called in this block leaves no record for `summary`."""
    before = context.inits, context.matrices
    context.inits = context.matrices = None
    try:
        yield
    finally:
        context.inits, context.matrices = before


@contextmanager
def decoding() -> Iterator[None]:
    """Lets the stages that are called in this block decode and encode the leaves of their states."""
    before, context.decodes = context.decodes, True
    try:
        yield
    finally:
        context.decodes = before


@contextmanager
def isolated(is_outermost: bool) -> Iterator[None]:
    """Hides the names of the stages being called, so that a compiled update does not depend on them."""
    before = context.stack, context.in_program
    context.stack, context.in_program = [] if is_outermost else [Frame("", (), frozenset())], True
    try:
        yield
    finally:
        context.stack, context.in_program = before


def stage_name() -> str:
    """The path of the stage being called, for error messages."""
    if not context.stack:
        return "gradflow"
    return ".".join(context.stack[-1].path) or context.stack[0].name
