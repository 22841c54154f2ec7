"""The size of a traced program, and the copies of a compiled one."""

import re
from collections.abc import Iterator
from typing import Any

import jax


def copied_arrays(text: str) -> list[str]:
    """The copies of a compiled program but those of single numbers, such as a loop begins with."""
    return re.findall(r"= \w+\[\d[^=]* copy\(", text)


def count_equations(jaxpr: Any, seen: set[int], branch: int = 0) -> int:
    """Equations of a program for the CPU (branch 0) or an accelerator (-1); those of a shared part once."""
    total = 0
    platforms = [eqn.outvars[0] for eqn in jaxpr.eqns if eqn.primitive.name == "platform_index"]
    for equation in jaxpr.eqns:
        total += 1
        parts: Any = tuple(equation.params.values())
        if equation.primitive.name == "cond" and equation.invars[0] in platforms:
            parts = equation.params["branches"][branch]
        for value in jax.tree.leaves(parts, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and id(inner) not in seen:
                seen.add(id(inner))
                total += count_equations(inner, seen, branch)
    return total


def every_equation(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner)
