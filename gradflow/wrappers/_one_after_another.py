"""A function whose arrays on the host move to the device in groups, each after the one before is back."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gradflow._equations import Operation, TracedProgram, is_literal
from gradflow._platform import by_platform


def one_after_another(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, in an order in which few arrays of the host are on the device at once.

    The function is traced. Results that read the same arrays of the host are one group, and share nothing of
    these with other groups. Before a group's arrays move, those of the group before have moved back.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    run = functools.partial(_run, closed)
    # A choice by platform is one equation for all leaves, so it is made for the whole function.
    results = by_platform(
        jax.tree.leaves(arguments),
        cpu=functools.partial(run, "cpu"),
        accelerator=functools.partial(run, None),
        tpu=functools.partial(run, "tpu"),
    )
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _run(closed: Any, platform: str | None, operands: list[Any]) -> list[Any]:
    """The results of a trace, group by group, as they are computed on a platform; None for all others."""
    program = TracedProgram(dict(enumerate(operands)), platform)
    values, results = program.values, program.read(closed, list(range(len(operands))))
    hosted = [k for k, x in enumerate(operands) if is_hosted(x)]
    back: list[Any] = []
    for group, inputs in _groups(program.operations, results, hosted):
        if back and inputs:
            gated = jax.lax.optimization_barrier([*(values[k] for k in inputs), *back])
            values.update(zip(inputs, gated, strict=False))
        program.evaluate([results[k] for k in group])
        back = [x for x in map(program.value, (results[k] for k in group)) if is_hosted(x)] or back
    program.evaluate_effects()
    return list(map(program.value, results))


def is_hosted(x: Any) -> bool:
    """Whether an array, traced or concrete, lies in the memory of the host."""
    return isinstance(x, jax.Array) and jax.typeof(x).memory_space == jax.memory.Space.Host


def _groups(
    operations: list[Operation], results: list[Any], hosted: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """The results that read the same arrays of the host, and the places of these arrays.

    Those that read none come last: what the other groups need of them is computed with the first that does.
    """
    reads: dict[int, int] = {place: 1 << bit for bit, place in enumerate(hosted)}
    for operation in operations:
        mask = 0
        for place in operation.operands:
            mask |= 0 if is_literal(place) else reads.get(place, 0)
        reads.update(dict.fromkeys(operation.results, mask))
    groups: list[tuple[int, list[int]]] = []
    for index, place in enumerate(results):
        mask, members = (0 if is_literal(place) else reads.get(place, 0)), [index]
        apart = []
        for other, others in groups:
            if other & mask or other == mask:
                mask, members = mask | other, others + members
            else:
                apart.append((other, others))
        groups = [*apart, (mask, members)]
    groups.sort(key=lambda group: (group[0] == 0, min(group[1])))
    for mask, members in groups:
        yield members, [place for bit, place in enumerate(hosted) if mask >> bit & 1]
