"""Functions whose NaN stays NaN in a kernel of a GPU, as it does elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._rules._elementwise import CALLS, jaxpr_of


def nan_kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with other operations where Triton returns a number for a NaN.

    Its max, min and clamp return the other operand: a bounded NaN would be a finite gradient, and the scale
    of a block with a NaN that of the others.
    """

    def run(*operands: Any) -> Any:
        closed, like = jax.make_jaxpr(function, return_shape=True)(*operands)
        results = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(operands))
        return jax.tree.unflatten(jax.tree.structure(like), results)

    return run


def _evaluated(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *operands], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else values[variable]

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, list(map(read, equation.invars))
        programs = [x for x in equation.params.values() if jaxpr_of(x) is not None]
        if name in CALLS and len(programs) == 1:
            results = _evaluated(jaxpr_of(programs[0]), getattr(programs[0], "consts", ()), inputs)
        elif name in _KEPT and equation.outvars[0].aval.dtype == np.float32:
            results = [_KEPT[name](equation, *inputs)]
        else:
            made = equation.primitive.bind(*inputs, **equation.params)
            results = made if equation.primitive.multiple_results else [made]
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _elementwise(equation: Any, *inputs: Any) -> jax.Array:
    made = equation.primitive.bind(*inputs, **equation.params)
    for x in inputs:
        if isinstance(x, jax.core.Tracer) and x.shape == made.shape:  # limits and constants are numbers
            made = jax.lax.select(x != x, x, made)
    return made


def _largest(equation: Any, x: jax.Array) -> jax.Array:
    # A NaN without a sign has the largest bits.
    bits = jax.lax.bitcast_convert_type(jnp.where(x != x, np.float32(np.nan), x), jnp.int32)
    most = _in_order(jnp.max(_in_order(bits), axis=equation.params["axes"]))
    return jax.lax.bitcast_convert_type(most, jnp.float32)


def _smallest(equation: Any, x: jax.Array) -> jax.Array:
    return -_largest(equation, -x)


def _in_order(bits: jax.Array) -> jax.Array:
    """The bits of float32 numbers as integers in the order of these numbers; of such integers, the bits."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


_KEPT = {
    **dict.fromkeys(("max", "min", "clamp"), _elementwise),
    "reduce_max": _largest,
    "reduce_min": _smallest,
}
