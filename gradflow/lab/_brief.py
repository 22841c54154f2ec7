"""Expressions as one would write them: without the arguments that are at their defaults."""

import inspect
from typing import Any

from gradflow._expression import expression_of, key_of, show


def brief(value: Any) -> str:
    """An expression without defaults, `adamw(0.001, b1=0.95)`; other values as they print."""
    expression = expression_of(value)
    if expression is None:
        if type(value) is tuple:
            inner = ", ".join(map(brief, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if type(value) is dict:
            return "{" + ", ".join(f"{show(key)}: {brief(item)}" for key, item in value.items()) + "}"
        return show(value)
    parameters = getattr(expression.maker, "parameters", {})
    written: list[str] = []
    in_order = True  # the first arguments go without their names
    for name, given in expression.arguments.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if name == expression.maker.variadic:
            written += map(brief, given)
        elif default is inspect.Parameter.empty and in_order:
            written.append(brief(given))
        elif default is inspect.Parameter.empty or key_of(given) != key_of(default):
            written.append(f"{name}={brief(given)}")
        else:
            in_order = False
    return f"{expression.name}({', '.join(written)})"


def short(text: str, most: int = 90) -> str:
    """A text cut to a length."""
    return text if len(text) <= most else text[: most - 3] + "..."
