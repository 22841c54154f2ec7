"""What jit computes, operation by operation: traced as jit traces it, with no program compiled as a whole.

Compiling is three quarters of what a law costs, and nearly every program is another one. The operations are
few, and each is compiled once for all cases. What only a whole program can show is asked of whole programs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def interpreted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced like `jax.jit(function)`, and evaluated one operation after the other."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, *jax.tree.leaves(args)))

    return call


def _evaluate(closed: ClosedJaxpr | Jaxpr, *arguments: Any) -> list[Any]:
    # Since jax 0.12 one class has both, and a program inside another may lack constants before.
    return _run(getattr(closed, "jaxpr", closed), getattr(closed, "consts", ()), arguments)


def _run(jaxpr: Jaxpr, consts: Any, arguments: Any) -> list[Any]:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        evaluate = _CONTROL.get(equation.primitive.name, _operation)
        results = evaluate(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _operation(equation: Any, operands: list[Any]) -> list[Any]:
    results = equation.primitive.bind(*operands, **equation.params)
    return list(results) if equation.primitive.multiple_results else [results]


def _inlined(name: str) -> Callable[[Any, list[Any]], list[Any]]:
    def evaluate(equation: Any, operands: list[Any]) -> list[Any]:
        return _evaluate(equation.params[name], *operands)

    return evaluate


def _cond(equation: Any, operands: list[Any]) -> list[Any]:
    index, *operands = operands
    branches = equation.params["branches"]
    return _evaluate(branches[min(max(int(index), 0), len(branches) - 1)], *operands)


def _while(equation: Any, operands: list[Any]) -> list[Any]:
    p = equation.params
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    cond_consts, body_consts, carry = operands[:first], operands[first:second], operands[second:]
    while True:
        (goes_on,) = _evaluate(p["cond_jaxpr"], *cond_consts, *carry)
        if not jnp.any(goes_on):
            return carry
        moved = _evaluate(p["body_jaxpr"], *body_consts, *carry)
        # Under vmap the loop runs until the last is done, and those that are done stay.
        carry = [
            new if goes_on.ndim == 0 else jnp.where(jnp.expand_dims(goes_on, range(1, new.ndim)), new, old)
            for new, old in zip(moved, carry, strict=True)
        ]


def scan_parts(p: dict[str, Any], operands: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The constants, the first carry and the rows among the operands of a scan."""
    if "ft_in" in p:  # since jax 0.12: constants, carry and rows
        num_consts, num_carry = (len(part) for part in p["ft_in"].unpack()[:2])
    else:
        num_consts, num_carry = p["num_consts"], p["num_carry"]
    first, second = num_consts, num_consts + num_carry
    return operands[:first], operands[first:second], operands[second:]


def _scan(equation: Any, operands: list[Any]) -> list[Any]:
    p = equation.params
    consts, carry, stacked = scan_parts(p, operands)
    places = range(p["length"])
    rows: list[Any] = [None] * p["length"]
    for place in reversed(places) if p["reverse"] else places:
        results = _evaluate(p["jaxpr"], *consts, *carry, *(x[place] for x in stacked))
        carry, rows[place] = results[: len(carry)], results[len(carry) :]
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]


_CONTROL: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "jit": _inlined("jaxpr"),
    "pjit": _inlined("jaxpr"),
    "closed_call": _inlined("call_jaxpr"),
    "custom_jvp_call": _inlined("call_jaxpr"),
    "custom_vjp_call": _inlined("call_jaxpr"),
    "custom_vmap_call": _inlined("call"),
    "remat2": _inlined("jaxpr"),
    "checkpoint": _inlined("jaxpr"),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
