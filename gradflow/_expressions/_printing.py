"""Printing values as the code that makes them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gradflow._errors import describe
from gradflow._expressions._keys import ATOMS, expression_of, key_of

WIDTH = 88  # columns; a longer call is broken into one line per argument

Piece = tuple[str, Any]  # a prefix, such as `b1=`, and the value after it
Pieces = tuple[str, Sequence[Piece], str]  # the opening, the items and the closing of a call or a container


def show(value: Any, every: bool = False) -> str:
    """A value on one line: a call without arguments that have their defaults, unless `every` is set."""
    if type(value) in ATOMS:
        return repr(value)
    expression = expression_of(value)
    if expression is not None and not every and expression.maker.kind != "selector":
        return str(expression.line)
    pieces = _pieces(value, every)
    return _atom(value) if pieces is None else _join(pieces, every)


def call_line(expression: Any) -> str:
    """The shortest call that rebuilds a value, on one line."""
    return _join((f"{expression.name}(", call_pieces(expression), ")"), every=False)


def _join(pieces: Pieces, every: bool) -> str:
    opening, parts, closing = pieces
    return opening + ", ".join([prefix + show(item, every) for prefix, item in parts]) + closing


def layout(value: Any, every: bool = False, indent: int = 0, prefix: str = "") -> str:
    """A value as a formatter would print it, in lines of at most `WIDTH` columns where possible."""
    line = prefix + show(value, every)
    pieces = _pieces(value, every) if indent + len(line) + bool(indent) > WIDTH else None
    if pieces is None:
        return line
    opening, parts, closing = pieces
    inner = " " * (indent + 4)
    lines = [f"{inner}{layout(item, every, indent + 4, lead)}," for lead, item in parts]
    return "\n".join([prefix + opening, *lines, " " * indent + closing.lstrip(",")])


def shorten(text: str, most: int = 90) -> str:
    """A text cut to at most `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def is_call(value: Any) -> bool:
    """Whether a value prints as a call; selectors print as patterns and operators."""
    expression = expression_of(value)
    return expression is not None and expression.maker.kind != "selector"


def _pieces(value: Any, every: bool) -> Pieces | None:
    """A call or a container taken apart; None for other values."""
    if is_call(value):
        return f"{value.expression.name}(", call_pieces(value.expression, every), ")"
    if type(value) is dict:
        return "{", [(f"{show(key)}: ", item) for key, item in value.items()], "}"
    if type(value) is tuple:
        return "(", [("", item) for item in value], ",)" if len(value) == 1 else ")"
    return None


def call_pieces(expression: Any, every: bool = False) -> list[Piece]:
    """The arguments of the shortest call that rebuilds a value; all of them with `every`."""
    maker = expression.maker
    pieces: list[Piece] = []
    may_be_positional = not every
    for name, value in expression.arguments.items():
        parameter = maker.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            may_be_positional = False
            pieces += [("", item) for item in value]
        elif parameter.kind is parameter.VAR_KEYWORD:
            pieces += [(f"{key}=", item) for key, item in value.items()]
        elif parameter.default is parameter.empty:
            may_be_positional &= parameter.kind is not parameter.KEYWORD_ONLY
            pieces.append(("" if may_be_positional else f"{name}=", value))
        else:
            may_be_positional = False
            if every or key_of(value) != maker.default_keys[name]:
                pieces.append((f"{name}=", value))
    return pieces


def _atom(value: Any) -> str:
    """A value that is neither a call nor a container."""
    if expression_of(value) is not None:
        return repr(value)
    if isinstance(value, jax.core.Tracer):
        return f"Tracer({describe(value)})"
    if isinstance(value, jax.Array):
        kind = getattr(value.dtype, "kind", "")  # PRNG keys have none
        scalar = value.shape == () and value.is_fully_addressable and kind != "" and kind in "fiub"
        return f"Array({value.item()!r}, {value.dtype})" if scalar else f"Array({describe(value)})"
    if isinstance(value, np.ndarray):
        return f"array({value.tolist()!r})" if value.size <= 8 else f"array({describe(value)})"
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, tuple):
        inner = ", ".join(f"{k}={show(v)}" for k, v in zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
        return f"{type(value).__name__}({inner})"
    if isinstance(value, functools.partial):
        return f"partial({show(value.func)}, ...)"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__).replace("<locals>.", "").replace("<lambda>", "lambda")
    return repr(value)
