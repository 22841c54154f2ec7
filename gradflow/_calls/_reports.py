"""report(name, value) inside a stage, and the collectors that record it.

A report is recorded under the path by which its stage is called. Without a collector it costs nothing: a
function passed as the value is not called.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._context import context, stage_name
from gradflow._errors import describe


def _trace_state() -> Any:
    """A token that is equal only within one trace."""
    # Imported here because importing jax.extend takes longer than importing gradflow.
    try:
        from jax.extend.core import get_opaque_trace_state
    except ImportError:  # before jax 0.10
        from jax.core import get_opaque_trace_state

    return get_opaque_trace_state(convention="flax")


def missing() -> float:
    """The placeholder of a number that was not computed: NaN, or 0 under `jax_debug_nans`."""
    return 0.0 if jax.config.jax_debug_nans else float("nan")  # type: ignore[attr-defined]


class Collector:
    """Records reports, scalars by stage path and name such as `adamw.norm`, and notes."""

    def __init__(self) -> None:
        self.values: dict[str, jax.Array] = {}
        self.notes: dict[str, jax.Array] = {}
        self._depth = len(context.stack[-1].path) if context.stack else 0
        self._trace = _trace_state()

    def take(self, path: tuple[str, ...], name: str, value: Any) -> None:
        """Records one report, under its path relative to the collecting stage."""
        if _trace_state() != self._trace:
            raise RuntimeError(
                f"{stage_name()}: report('{name}') must be called in the trace of the collector; got a call "
                "inside another jit, cond, scan or vmap, which its value cannot leave. Return the value and "
                "report it outside, or collect inside with gradflow.collecting and forward the values"
            )
        self.values[".".join((*path[self._depth :], name))] = value

    def note(self, name: str, value: Any) -> None:
        """Records a value under a unique name, unless it belongs to an inner trace."""
        if _trace_state() == self._trace:
            self.notes[name] = value


@contextmanager
def collecting() -> Iterator[Collector]:
    """Records the reports of the stages called in this block; of nested collectors, the innermost records.

    A wrapper that calls its inner transformation inside `lax.cond` collects in the branch, returns the
    values from it, and passes them on with `forward`.
    """
    collector = Collector()
    context.collectors.append(collector)
    try:
        yield collector
    finally:
        context.collectors.remove(collector)


def is_collecting() -> bool:
    """Whether a collector is active; if not, a wrapper may skip passing reports on."""
    return bool(context.collectors)


def report(name: str, value: Any | Callable[[], Any]) -> None:
    """Reports a scalar of the stage being updated, as float32; a function is called only if collected.

    Raises:
      ValueError: the stage does not declare `name` (`@transformation(reports=(name,))`), or the
        value is not a scalar.
      RuntimeError: called outside a stage's update, or inside a jit or branch of the stage's own.
    """
    if not context.stack:
        raise RuntimeError(f"report: {describe(name)} must be reported inside the update of a stage")
    frame = context.stack[-1]
    if name not in frame.reports:
        raise ValueError(
            f"{stage_name()}: report('{name}') must be declared; got {sorted(frame.reports)}. "
            f"Declare it with @transformation(reports=('{name}', ...))"
        )
    if not context.collectors:
        return
    scalar = jnp.asarray(value() if callable(value) else value)
    if scalar.shape != ():
        raise ValueError(f"{stage_name()}: report('{name}') must be a scalar; got shape {scalar.shape}")
    context.collectors[-1].take(frame.path, name, scalar.astype(jnp.float32))


def note(name: str, value: Any) -> None:
    """Records a value that is not a report of a stage, such as the value of a schedule."""
    if context.collectors:
        context.collectors[-1].note(name, value)


def forward(values: Mapping[str, jax.Array]) -> None:
    """Passes on what an inner collector recorded, below the path of the stage being called."""
    if context.collectors:
        path = context.stack[-1].path if context.stack else ()
        for name, value in values.items():
            context.collectors[-1].take(path, name, value)
