"""Which rules are elementwise, by their operations."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# One number of the result depends on one number of each operand, and a kernel of a TPU can compute it.
_ELEMENTWISE = set(
    """abs add add_any and ceil clamp convert_element_type copy cos div eq exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rem round rsqrt select_n sign
    sin sqrt square sub tanh xor""".split()  # noqa: SIM905  # a list would be forty lines
)
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}


@functools.lru_cache(maxsize=1024)
def is_elementwise(rule: Callable[..., Any], *types: Any) -> bool:
    """Whether each number of the results of `rule` depends on numbers in its own place and on scalars.

    `types` are those of its operands: arrays of one shape of at least one axis, and scalars.
    """
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    shape = max((each.shape for each in operands), key=len)
    return _has_elementwise(jax.make_jaxpr(rule)(*operands).jaxpr, shape)


def _has_elementwise(jaxpr: Any, shape: tuple[int, ...]) -> bool:
    return all(_equation_is(each, shape) for each in jaxpr.eqns)


def _equation_is(equation: Any, shape: tuple[int, ...]) -> bool:
    name = equation.primitive.name
    if any(variable.aval.shape not in ((), shape) for variable in (*equation.invars, *equation.outvars)):
        return False
    if name == "broadcast_in_dim":
        return equation.invars[0].aval.shape == ()
    if name in _CALLS:
        inner = [jaxpr for jaxpr in map(_jaxpr_of, equation.params.values()) if jaxpr is not None]
        return len(inner) == 1 and _has_elementwise(inner[0], shape)
    return name in _ELEMENTWISE


def _jaxpr_of(value: Any) -> Any:
    """The operations of a parameter that is a program, else None."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None
