"""Words for errors: who was called, what was expected, what came. Never the contents of an array."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def describe(value: Any) -> str:
    """A few words for any object, such as `float32[3,4]` or `the function adamw`."""
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return with_article(type(value).__name__)
    if isinstance(value, dict):
        keys = [str(key) for key in value]
        shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
        return f"a dict with keys {{{shown}}}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of length {len(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    """A name of a class with its article: `an EmptyState`."""
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: the near ones, or all when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=5, cutoff=0.5)
    if near:
        return ValueError(f"no {kind} is called {name!r}; near ones: {', '.join(near)}")
    return ValueError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
