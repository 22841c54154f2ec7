"""What the update of a factory's body takes, read from its code."""

import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, NamedTuple, get_args

from gradflow._types import EmptyState


class Signature(NamedTuple):
    """What a body's update takes beyond updates, state and params."""

    extra: frozenset[str]
    required: tuple[str, ...]
    passes_all: bool
    needs_params: bool
    state_type: type | None
    may_be_empty: bool = False


_NO_NAMES: frozenset[str] = frozenset()


def read_signature(update: Callable[..., Any]) -> Signature:
    """The signature of an update function; a callable that cannot be inspected takes no extra arguments."""
    function: Any = inspect.unwrap(update) if hasattr(update, "__wrapped__") else update
    annotation = getattr(update, "__annotations__", {}).get("state")
    kinds: tuple[Any, ...] = get_args(annotation) or (annotation,)
    state_type = kinds[0] if isinstance(kinds[0], type) and hasattr(kinds[0], "_fields") else None
    may_be_empty = EmptyState in kinds[1:]
    if type(function) is not FunctionType:
        return _inspected(update)._replace(state_type=state_type, may_be_empty=may_be_empty)
    keywords = frozenset(function.__kwdefaults__) if function.__kwdefaults__ else _NO_NAMES
    defaults = len(function.__defaults__ or ())
    return _of_code(function.__code__, defaults, keywords, state_type, may_be_empty)


# Every call of a factory makes a new update function from the same code.
@functools.lru_cache(maxsize=4096)
def _of_code(
    code: CodeType,
    defaults: int,
    kwdefaults: frozenset[str],
    state_type: type | None,
    may_be_empty: bool,
) -> Signature:
    positional = code.co_varnames[3 : code.co_argcount]
    keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return Signature(
        extra=frozenset((*positional, *keyword)),
        required=tuple(name for name in keyword if name not in kwdefaults),
        passes_all=bool(code.co_flags & inspect.CO_VARKEYWORDS),
        needs_params=code.co_argcount >= 3 and code.co_argcount - defaults >= 3,
        state_type=state_type,
        may_be_empty=may_be_empty,
    )


def _inspected(update: Callable[..., Any]) -> Signature:
    try:
        parameters = list(inspect.signature(update).parameters.values())
    except (TypeError, ValueError):
        return Signature(frozenset(), (), False, False, None)
    names = [p.name for p in parameters[3:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    passes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Signature(frozenset(names), (), passes_all, False, None)
