"""Parts of error messages: descriptions of values, and hints for names. Never the contents of an array."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from gradflow._vocabulary import CALLS, argument_hint, meant_arguments, meant_name


def describe(value: Any) -> str:
    """A short description of any object, such as `float32[3,4]` or `the function adamw`."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python does not print one of 4300 digits
        return f"an integer of {value.bit_length()} bits"
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


def owner_of(function: Callable[..., Any]) -> str:
    """A function's name in errors; those of `gradflow.tree` have their room before them."""
    if (function.__module__ or "").split(".")[1:2] == ["tree"]:
        return f"tree.{function.__name__}"
    return function.__qualname__.rpartition("<locals>.")[2]


def refused_call(owner: str, problem: str, known: Iterable[str], hint: str = "") -> TypeError:
    """The error for a call that does not fit a signature with the arguments `known`."""
    more = f"{hint} " if hint else ""
    return TypeError(f"{owner}: {problem}. {more}Its arguments are {', '.join(known)}.")


def unfit_call(
    function: Callable[..., Any], error: Exception, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TypeError | None:
    """The clearer form of an error that Python raised because a call did not fit the signature, or None.

    Such an error comes from the frame of the call, and from no frame inside the function.
    """
    traceback = error.__traceback__
    if type(error) is not TypeError or traceback is None or traceback.tb_next is not None:
        return None
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as misfit:
        owner, problem = owner_of(function), str(misfit)
        known = inspect.signature(function).parameters
        hint = f"Write {CALLS[owner]}." if owner in CALLS else ""
        unfamiliar = [name for name in kwargs if name not in known]
        if unfamiliar:
            problem = f"got an unexpected keyword argument {describe(unfamiliar[0])}"
            hint = hint or argument_hint(unfamiliar[0], known) or near_name_hint(unfamiliar[0], known)
        return refused_call(owner, problem, known, hint)
    return None


def near_name_hint(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest known name, or no text."""
    near = near_names(name, known)
    return f"Did you mean '{near[0]}'?" if near else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for an unknown name, with the nearest known names, or 40 of them if none is near."""
    known = list(known)
    return ValueError(f"no {kind} is called {describe(name)}. {names_hint(str(name), known, 40)}")


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names nearest to `name`: similar ones, then those with the same last segment."""
    names = sorted(set(known))
    by_lower_case = {other.lower(): other for other in names}
    if name.lower() in by_lower_case:
        return [by_lower_case[name.lower()]]
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
