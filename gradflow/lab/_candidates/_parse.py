"""Reads expressions from text: only gradflow's own factories, literals and nested calls."""

import ast
import math
from collections.abc import Callable
from typing import Any

from gradflow._errors import describe, unknown
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import shorten
from gradflow._expressions._registry import OWN_FACTORIES
from gradflow._tracebacks import one_frame

_LONGEST = 20_000  # characters
_DEEPEST = 50  # calls and brackets inside each other
_PREFIXES = ("gf", "gradflow")


@one_frame
def parse(text: str) -> Any:
    """Returns the transformation, schedule or selector of a text such as `"adamw(1e-3, b1=0.95)"`.

    The text is parsed and not evaluated. Only gradflow's own factories are called, on literals, `inf` and
    `nan`, on results of such calls, and on factories by name. `gf.` before a name is allowed.
    `parse(repr(tx)) == tx` for a transformation of such values. Raises ValueError for anything else.
    """
    value = parse_value(text)
    if expression_of(value) is None:
        raise ValueError(
            f"parse: argument 'text' must be an expression; got {_quoted(text)}. "
            "To make a transformation, write a call such as adamw(1e-3)"
        )
    return value


def parse_value(text: str) -> Any:
    """Like `parse`, for any value that may be an argument: a literal, or the result of a factory."""
    if not isinstance(text, str):
        raise TypeError(f"parse: argument 'text' must be a string; got {describe(text)}")
    if len(text) > _LONGEST:
        raise ValueError(f"parse: argument 'text' must have at most {_LONGEST} characters; got {len(text)}")
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, 0)
    except SyntaxError as error:
        raise ValueError(
            f"parse: argument 'text' must be an expression; got {_quoted(text)}: {error.msg}"
        ) from None
    except (RecursionError, MemoryError):
        raise ValueError(_TOO_DEEP) from None


_TOO_DEEP = f"parse: argument 'text' must nest at most {_DEEPEST} calls and brackets; got more"


def _quoted(text: str) -> str:
    return repr(shorten(text, 80))


def _read(node: ast.expr, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    inner = depth + 1
    match node:
        case ast.Constant(value=bool() | int() | float() | complex() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() | complex())):
            return -node.operand.value  # type: ignore[attr-defined]
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() | complex())):
            return node.operand.value  # type: ignore[attr-defined]
        case ast.Name(id="inf" | "nan"):  # as Python prints these numbers
            return float(node.id)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Tuple() | ast.List():
            return tuple(_read(item, inner) for item in node.elts)
        case ast.Dict() if all(key is not None for key in node.keys):
            if any(isinstance(key, ast.Dict) for key in node.keys):
                raise ValueError(
                    f"parse: argument 'text' must have no dicts as keys; got {_quoted(ast.unparse(node))}"
                )
            pairs = zip(node.keys, node.values, strict=True)
            return {_read(k, inner): _read(v, inner) for k, v in pairs if k is not None}
        case ast.Name() | ast.Attribute():
            return factory_named(_name(node))
        case ast.Call():
            return _call(node, inner)
    raise ValueError(
        "parse: argument 'text' must consist of literals and calls of factories; "
        f"got {_quoted(ast.unparse(node))}. Write numbers out"
    )


def _call(node: ast.Call, depth: int) -> Any:
    factory = factory_named(_name(node.func))
    arguments: list[Any] = []
    for item in node.args:
        if isinstance(item, ast.Starred):
            raise ValueError(
                f"parse: argument 'text' must write arguments out, without '*'; "
                f"got {_quoted(ast.unparse(item))}"
            )
        arguments.append(_read(item, depth))
    named: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(
                f"parse: argument 'text' must write arguments out, without '**'; "
                f"got {_quoted(ast.unparse(node))}"
            )
        if keyword.arg in named:
            raise ValueError(
                f"parse: argument 'text' must give '{keyword.arg}' once; got {_quoted(ast.unparse(node))}"
            )
        named[keyword.arg] = _read(keyword.value, depth)
    return factory(*arguments, **named)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute(value=ast.Name(id=prefix)) if prefix in _PREFIXES:
            return node.attr
    raise ValueError(f"parse: argument 'text' must call factories by name; got {_quoted(ast.unparse(node))}")


def factory_named(name: str) -> Callable[..., Any]:
    """Returns gradflow's factory of a name; raises ValueError with near names for an unknown one."""
    known = OWN_FACTORIES
    if name not in known or name.startswith("_"):
        raise unknown("factory", name, (n for n in known if not n.startswith("_")))
    return known[name].function
