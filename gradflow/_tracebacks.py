"""Tracebacks of errors that a check raises: the caller's frames, and one of gradflow's.

jax removes its own frames from tracebacks in the same way. `JAX_TRACEBACK_FILTERING=off`, jax's switch,
shows all frames of both.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import jax

from gradflow._errors import unfit_call

F = TypeVar("F", bound=Callable[..., Any])

_GRADFLOW = str(Path(__file__).parent)
_BETWEEN = (
    _GRADFLOW,
    str(Path(jax.__file__).parent),
    *(file for file in (contextlib.__file__, functools.__file__) if file),
)


def shorten(error: BaseException) -> None:
    """Removes gradflow's frames but the outermost from the traceback of an error that gradflow raised.

    An error from other code, such as a schedule or a loss, keeps all its frames.
    """
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    is_own = bool(frames) and _file(frames[-1]).startswith(_GRADFLOW)
    if not is_own or jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
        return
    kept = [frames[0], *(frame for frame in frames[1:] if not _file(frame).startswith(_BETWEEN))]
    shown: TracebackType | None = None
    for frame in reversed(kept):
        shown = TracebackType(shown, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    error.__traceback__ = shown
    # Where a second attempt raised the clearer error, the first one repeats it.
    error.__suppress_context__ = True


def one_frame(function: F) -> F:
    """Makes the errors of a function's checks show one frame of gradflow."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            unfit = unfit_call(function, error, args, kwargs)
            if unfit is not None:
                raise unfit from None
            shorten(error)
            raise

    return cast(F, call)


def _file(frame: TracebackType) -> str:
    return frame.tb_frame.f_code.co_filename
