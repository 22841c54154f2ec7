"""Tracebacks of errors that gradflow raises about a call."""

from typing import Any

import jax

_INNER = ("gradflow", "jax", "jaxlib", "contextlib", "functools")


def shortened(error: Exception) -> Exception:
    """The error without the frames inside gradflow, if it was raised there and no other code is between.

    A check deep in a chain is then one frame below the user's call. All frames are shown where jax shows
    its own, with `jax_traceback_filtering="off"`.
    """
    if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
        return error
    modules = _modules(error.__traceback__)
    is_ours = bool(modules) and modules[-1] == "gradflow" and all(module in _INNER for module in modules)
    return error.with_traceback(None) if is_ours else error


def _modules(traceback: Any) -> list[str]:
    """The packages of the frames of a traceback, the outermost first."""
    found = []
    while traceback is not None:
        found.append(str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0])
        traceback = traceback.tb_next
    return found
