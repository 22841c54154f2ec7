"""report(name, value) inside a stage, and the collectors that listen.

A report belongs to the path by which its stage is called. Nobody listening, a report costs nothing: pass a
function and it is not even called.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._context import context, stage_name


def _trace_state() -> Any:
    """Something that is equal only inside one and the same trace."""
    # Imported here because jax.extend takes longer to import than all of gradflow.
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state(convention="flax")


class Collector:
    """What was reported while it listened: scalars by stage path and name, `adamw.norm`; and notes."""

    def __init__(self) -> None:
        self.values: dict[str, jax.Array] = {}
        self.notes: dict[str, jax.Array] = {}
        self._depth = len(context.stack[-1].path) if context.stack else 0
        self._trace = _trace_state()

    def take(self, path: tuple[str, ...], name: str, value: Any) -> None:
        """Keeps one report, under its path below the stage that collects."""
        if _trace_state() != self._trace:
            raise RuntimeError(
                f"{stage_name()}: report('{name}') was called inside a jit, cond, scan or vmap that is "
                "not its stage's own, so its value cannot leave; return the value and report it outside, "
                "or collect inside with gradflow.collecting and forward what it collected"
            )
        self.values[".".join((*path[self._depth :], name))] = value

    def note(self, name: str, value: Any) -> None:
        """Keeps a value under a name that is unique by itself, unless it belongs to an inner trace."""
        if _trace_state() == self._trace:
            self.notes[name] = value


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listens to the stages called in this block; listeners nest, and the innermost one hears.

    A wrapper that calls its inner transformation inside `lax.cond` collects there, returns the values
    out of the branch, and hands them on with `forward`.
    """
    collector = Collector()
    context.collectors.append(collector)
    try:
        yield collector
    finally:
        context.collectors.remove(collector)


def is_collecting() -> bool:
    """Whether anybody listens, so that a wrapper may skip the work of passing reports on."""
    return bool(context.collectors)


def report(name: str, value: Any | Callable[[], Any]) -> None:
    """Reports a scalar of the stage being updated, as float32; a function is called if anybody listens.

    Raises:
      ValueError: the stage does not declare `name` (`@transformation(reports=(name,))`), or the
        value is no scalar.
      RuntimeError: called outside a stage's update, or inside a jit or branch of the stage's own.
    """
    if not context.stack:
        raise RuntimeError(f"report('{name}') was called outside the update of a stage")
    frame = context.stack[-1]
    if name not in frame.reports:
        raise ValueError(
            f"{stage_name()}: report('{name}') is not declared; declared are {sorted(frame.reports)}. "
            f"Declare it with @transformation(reports=('{name}', ...))"
        )
    if not context.collectors:
        return
    scalar = jnp.asarray(value() if callable(value) else value)
    if scalar.shape != ():
        raise ValueError(f"{stage_name()}: report('{name}') takes a scalar; got shape {scalar.shape}")
    context.collectors[-1].take(frame.path, name, scalar.astype(jnp.float32))


def note(name: str, value: Any) -> None:
    """Tells whoever listens a value that is no stage's report, such as what a schedule answered."""
    if context.collectors:
        context.collectors[-1].note(name, value)


def forward(values: Mapping[str, jax.Array]) -> None:
    """Hands on what an inner collector heard, below the path of the stage being called."""
    if context.collectors:
        path = context.stack[-1].path if context.stack else ()
        for name, value in values.items():
            context.collectors[-1].take(path, name, value)
