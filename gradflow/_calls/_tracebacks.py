"""Tracebacks of errors that gradflow raises about a call."""

from typing import Any

import jax

_INNER = ("gradflow", "jax", "jaxlib", "contextlib", "functools")


def raised_inside(error: Exception) -> bool:
    """Whether gradflow raised the error with no other code between, so that its frames tell nothing.

    A check deep in a chain is then one frame below the user's call. All frames are kept where jax keeps
    its own, with `jax_traceback_filtering="off"`.
    """
    if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
        return False
    modules = _modules(error.__traceback__)
    return bool(modules) and modules[-1] == "gradflow" and all(module in _INNER for module in modules)


def _modules(traceback: Any) -> list[str]:
    """The packages of the frames of a traceback, the outermost first."""
    found = []
    while traceback is not None:
        found.append(str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0])
        traceback = traceback.tb_next
    return found
