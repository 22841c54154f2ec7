"""On several CPU devices, the sums of all leaves are communicated together.

XLA joins all-reduces there in the order in which it meets them from the first result on, and stops at the
first one that waits for a joined one. A rule with two sums in a row is met leaf by leaf, and has collectives
of its own for each leaf: 34 for CAME and for `step_with_radial_brake` on eight matrices, 6 as here.
Barriers are no help, since XLA drops them before it joins. On a TPU it joins sums wherever they are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import context
from gradflow._equations import Operation, TracedProgram, is_literal
from gradflow._shardings import is_on_cpus
from gradflow._types import OptState, Updates

_SUMS = {
    "reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod", "reduce", "argmax",
    "argmin", "dot_general",
}  # fmt: skip
# These are left as they are: their sums are those of a loop's turns or of pieces, or run in rare branches.
_CLOSED = {"while", "scan", "shard_map", "cond"}
# Each result has at most this part of the numbers that are read.
_SMALL = 1 / 8


def with_joined_sums(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update whose sums, on several CPU devices, are all known before any sum that waits for some of them.

    Elsewhere it is the update itself. So it is where functions are among the extra arguments, whose sums are
    the user's.
    """

    def joined(updates: Updates, state: OptState, *rest: Any, **extra: Any) -> tuple[Updates, OptState]:
        leaves, structure = jax.tree.flatten((updates, state, *rest))
        places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
        plain = context.collectors or any(map(callable, extra.values()))
        if plain or not any(is_on_cpus(leaves[k]) for k in places):
            return update(updates, state, *rest, **extra)
        others: list[Any] = []

        def arrays_of_results(arrays: list[Any]) -> list[Any]:
            known = dict(zip(places, arrays, strict=True))
            given = jax.tree.unflatten(structure, [known.get(k, leaf) for k, leaf in enumerate(leaves)])
            results, result_structure = jax.tree.flatten(update(*given, **extra))
            found = [x for x in results if isinstance(x, jax.Array)]
            others[:] = [result_structure, [x if not isinstance(x, jax.Array) else None for x in results]]
            return found

        operands = [leaves[k] for k in places]
        arrays = iter(_in_order(jax.make_jaxpr(arrays_of_results)(operands), operands))
        result_structure, results = others
        whole = [next(arrays) if x is None else x for x in results]
        made: tuple[Updates, OptState] = jax.tree.unflatten(result_structure, whole)
        return made

    return joined


def _in_order(closed: Any, operands: list[Any]) -> list[Any]:
    """The results of a trace: all that waits for equally many sums before what waits for more of them."""
    program = TracedProgram(dict(enumerate(operands)), "cpu")
    results = program.read(closed, list(range(len(operands))))
    levels = _levels(program.needed(results))
    if len(levels) < 3 or any(operation.equation.effects for operation in program.operations):
        # No sum waits for another one.
        values = TracedProgram(dict(enumerate(operands)), "cpu")
        results = values.read(closed, list(range(len(operands))), opens=False)
        values.evaluate(results)
        values.evaluate_effects()
        return list(map(values.value, results))
    scalars = [x for x in operands if x.shape == () and x.dtype in _BITS]
    for level, operations in enumerate(levels):
        for operation in operations:
            program.compute(operation)
        sums = [place for each in operations if _is_sum(each) for place in each.results]
        if level < len(levels) - 2 and len(sums) > 1 and scalars:
            known = _all_known(scalars[0], [program.values[place] for place in sums])
            program.values.update(zip(sums, known, strict=True))
    return list(map(program.value, results))


def _levels(operations: list[Operation]) -> list[list[Operation]]:
    """The operations by how many sums are before them, one after the other; each as late as it can be.

    Early, the sums of a matrix's columns would not wait for the mean of the sums of its rows, which are
    along the same axis of a mesh: adafactor has 5 collectives so, and 4 late.
    """
    sums = [_is_sum(operation) for operation in operations]
    depth: dict[int, int] = {}
    for operation, is_sum in zip(operations, sums, strict=True):
        before = max((depth.get(x, 0) for x in operation.operands if not is_literal(x)), default=0)
        depth.update(dict.fromkeys(operation.results, before + is_sum))
    last = max(depth.values(), default=0)
    levels: list[list[Operation]] = [[] for _ in range(last + 1)]
    latest: dict[int, int] = {}
    for operation, is_sum in zip(reversed(operations), reversed(sums), strict=True):
        level = min((latest.get(x, last) for x in operation.results), default=last) - is_sum
        levels[level].append(operation)
        for x in operation.operands:
            if not is_literal(x):
                latest[x] = min(latest.get(x, last), level)
    return [level[::-1] for level in levels]


def _is_sum(operation: Operation) -> bool:
    """Whether its results are sums, or largest numbers, of larger arrays."""
    equation = operation.equation
    if not any(name in _SUMS for name in _names(equation)):
        return False
    read = max((x.aval.size for x in equation.invars if hasattr(x.aval, "size")), default=0)
    return max((x.aval.size for x in equation.outvars), default=0) <= read * _SMALL


def _names(equation: Any) -> Iterator[str]:
    """The names of an equation and of those inside it, as far as they are run each time on whole arrays."""
    chosen = equation.params.get("branches_platforms")
    if equation.primitive.name in _CLOSED and not chosen:
        return
    yield equation.primitive.name
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple) else (value,):
            jaxpr = getattr(inner, "jaxpr", inner)
            for each in getattr(jaxpr, "eqns", ()):
                yield from _names(each)


_BITS = (np.dtype(np.int32), np.dtype(np.float32))


@jax.custom_jvp
def _all_known(scalar: jax.Array, values: list[jax.Array]) -> list[jax.Array]:
    """The same values, none of which XLA computes before it has all of them.

    A loop without a turn, as one bit is never larger than 1. XLA does not find that out.
    """
    bit = jax.lax.bitcast_convert_type(scalar, jnp.uint32) & np.uint32(1)

    def turn(carry: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        count, inner = carry
        return count + np.uint32(1), [~x if x.dtype == bool else -x for x in inner]

    return jax.lax.while_loop(lambda carry: carry[0] > np.uint32(1), turn, (bit, values))[1]


@_all_known.defjvp
def _all_known_jvp(primals: Any, tangents: Any) -> Any:
    return _all_known(*primals), tangents[1]
