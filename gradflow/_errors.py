"""Parts of error messages: descriptions of values, and hints for names. Never the contents of an array."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from gradflow._vocabulary import meant_arguments, meant_name


def describe(value: Any) -> str:
    """A short description of any object, such as `float32[3,4]` or `the function adamw`."""
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
    """The name of a class with its article: `an EmptyState`."""
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name, with the nearest known names, or all of them if none is near."""
    known = list(known)
    return ValueError(f"no {kind} is called {name!r}. {names_hint(str(name), known, len(known))}")


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names nearest to `name`: similar ones, then those with the same last segment."""
    names = sorted(set(known))
    by_lower_case = {other.lower(): other for other in names}
    similar = difflib.get_close_matches(name.lower(), by_lower_case, n=5, cutoff=0.5)
    near = [by_lower_case[other] for other in similar]
    last = _last_segment(name)
    return near + [other for other in names if _last_segment(other) == last and other not in near][:5]


def names_hint(name: str, known: Iterable[str], most: int = 20) -> str:
    """The hint for an unknown name: `Did you mean 'x'?`; if none is near, at most `most` known names."""
    names = sorted(set(known))
    near = _translated(name, names) or near_names(name, names)
    if near:
        return f"Did you mean {', '.join(map(repr, near))}?"
    if most == 0:
        return ""
    if not names:
        return "There are none."
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"There are {', '.join(map(repr, names[:most]))}{more}."


def _translated(name: str, known: list[str]) -> list[str]:
    """The known names that are meant by a name of another library, or by an address that ends in one."""
    if meant_name(name) in known:
        return [str(meant_name(name))]
    last = _last_segment(name)
    if any(_last_segment(other) == last for other in known):
        return []
    meant = meant_arguments(last)
    owner = re.split(r"[./]", name)[:-1]
    found = [other for other in known if _last_segment(other) in meant]
    return [other for other in found if set(owner) <= set(re.split(r"[./]", other))] or found


def _last_segment(name: str) -> str:
    """What follows the last dot of an address or the last slash of a path."""
    return re.split(r"[./]", name)[-1]
