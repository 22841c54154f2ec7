"""Which rules are elementwise, by their operations."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

# One number of the result depends on one number of each operand, and a kernel of a TPU can compute it.
_ELEMENTWISE = set(
    """abs add add_any and ceil clamp convert_element_type copy cos div eq exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow rem round rsqrt select_n sign
    sin sqrt square sub tanh xor""".split()  # noqa: SIM905  # a list would be forty lines
)
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}
# Rules see pieces of a leaf. What they read of its shape shows in their operations on another one.
_OTHER_SHAPE = (3, 5)


@functools.lru_cache(maxsize=1024)
def is_elementwise(rule: Callable[..., Any], *types: Any) -> bool:
    """Whether each number of the results of `rule` depends on numbers in its own place and on scalars.

    `types` are those of its operands: arrays of one shape of at least one axis, and scalars. A rule that
    reads their shape, as in `g / g.size`, is not elementwise.
    """
    shape = max((shape for shape, _ in types), key=len)
    operations = _operations(rule, types, shape, shape)
    return operations is not None and operations == _operations(rule, types, shape, _OTHER_SHAPE)


def _operations(rule: Callable[..., Any], types: Any, shape: Any, other: Any) -> list[str] | None:
    """The operations of a rule with `other` in the place of `shape`; None if one is not elementwise."""
    operands = [jax.ShapeDtypeStruct(other if own == shape else own, dtype) for own, dtype in types]
    closed = jax.make_jaxpr(rule)(*operands)
    equations = list(_equations(closed.jaxpr))
    if not all(_is_elementwise(each, other) for each in equations):
        return None
    return [*map(repr, closed.consts), *map(_words, equations)]


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, those of a call in its place."""
    for equation in jaxpr.eqns:
        inner = [x for x in map(jaxpr_of, equation.params.values()) if x is not None]
        if equation.primitive.name in CALLS and len(inner) == 1:
            yield from _equations(inner[0])
        else:
            yield equation


def _is_elementwise(equation: Any, shape: tuple[int, ...]) -> bool:
    if any(variable.aval.shape not in ((), shape) for variable in (*equation.invars, *equation.outvars)):
        return False
    if equation.primitive.name == "broadcast_in_dim":
        return equation.invars[0].aval.shape == ()
    return equation.primitive.name in _ELEMENTWISE


def _words(equation: Any) -> str:
    """The name of an operation and the constants among its operands."""
    constants = [getattr(variable, "val", None) for variable in equation.invars]
    return f"{equation.primitive.name} {constants!r}"


def jaxpr_of(value: Any) -> Any:
    """The operations of a parameter that is a program, else None."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None
