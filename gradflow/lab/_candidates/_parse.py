"""Expressions from text: gradflow's own factories, literals and nested calls, and nothing else."""

import ast
from collections.abc import Callable
from typing import Any

from gradflow._errors import unknown
from gradflow._expressions._keys import expression_of
from gradflow._expressions._registry import OWN_FACTORIES

_LONGEST = 20_000  # characters
_DEEPEST = 50  # calls and brackets inside each other
_PREFIXES = ("gf", "gradflow")


def parse(text: str) -> Any:
    """The transformation, schedule or selector that `text` writes, `"adamw(1e-3, b1=0.95)"`.

    Nothing is evaluated: the text is read as a tree, in which only gradflow's own factories may be called, on
    literals, on each other's values, and on factories by name. `gf.` before a name is allowed.
    `parse(repr(tx)) == tx` for a transformation of literals. Raises ValueError with what cannot be read.
    """
    value = parse_value(text)
    if expression_of(value) is None:
        raise ValueError(f"{_short(text)} is no transformation; write a call, such as adamw(1e-3)")
    return value


def parse_value(text: str) -> Any:
    """The same for any value that may be an argument: a literal, or what a factory makes."""
    if not isinstance(text, str):
        raise TypeError(f"an expression is given as text; got a {type(text).__name__}")
    if len(text) > _LONGEST:
        raise ValueError(f"an expression of {len(text)} characters is too long; the limit is {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{_short(text)} is no expression: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError(_TOO_DEEP) from None
    return _read(tree, 0)


_TOO_DEEP = f"the expression is nested too deeply; the limit is {_DEEPEST} calls and brackets"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


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
        case ast.Tuple() | ast.List():
            return tuple(_read(item, inner) for item in node.elts)
        case ast.Dict() if all(key is not None for key in node.keys):
            pairs = zip(node.keys, node.values, strict=True)
            return {_read(k, inner): _read(v, inner) for k, v in pairs if k is not None}
        case ast.Name() | ast.Attribute():
            return factory_named(_name(node))
        case ast.Call():
            return _call(node, inner)
    raise ValueError(
        f"{_short(ast.unparse(node))} is neither a literal nor a call of a factory: write numbers out"
    )


def _call(node: ast.Call, depth: int) -> Any:
    factory = factory_named(_name(node.func))
    arguments: list[Any] = []
    for item in node.args:
        if isinstance(item, ast.Starred):
            raise ValueError(f"{_short(ast.unparse(item))}: arguments are written out, without '*'")
        arguments.append(_read(item, depth))
    named: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(f"{_short(ast.unparse(node))}: arguments are written out, without '**'")
        named[keyword.arg] = _read(keyword.value, depth)
    return factory(*arguments, **named)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute(value=ast.Name(id=prefix)) if prefix in _PREFIXES:
            return node.attr
    raise ValueError(f"{_short(ast.unparse(node))} is no factory's name")


def factory_named(name: str) -> Callable[..., Any]:
    """gradflow's factory of that name; a ValueError with near names for an unknown one."""
    known = OWN_FACTORIES
    if name not in known or name.startswith("_"):
        raise unknown("factory", name, (n for n in known if not n.startswith("_")))
    return known[name].function
