"""A function whose arrays on the host move to the device in groups, each after the one before is back."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gradflow._platform import by_platform


class _Operation(NamedTuple):
    """An equation of the trace, the places of its operands (or literals), and those of its results."""

    equation: Any
    operands: tuple[Any, ...]
    results: tuple[int, ...]


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
    program = _Program(dict(enumerate(operands)), platform)
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


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")  # the class is in jax.extend, which imports for 0.1 s


def is_hosted(x: Any) -> bool:
    """Whether an array, traced or concrete, lies in the memory of the host."""
    return isinstance(x, jax.Array) and jax.typeof(x).memory_space == jax.memory.Space.Host


def _reads_in_vain(equation: Any) -> bool:
    """Whether a function with a derivative of its own returns operands, and reads others for derivatives.

    A guard's does, and reads the whole state.
    """
    jaxpr = equation.params["call_jaxpr"].jaxpr
    return not jaxpr.eqns and len(jaxpr.outvars) < len(jaxpr.invars)


class _Program:
    """The equations of a trace without calls of jitted functions, and the values that are known."""

    def __init__(self, values: dict[int, Any], platform: str | None) -> None:
        self.values, self._platform = values, platform
        self.operations: list[_Operation] = []
        self._made_by: dict[int, int] = {}
        self._next = len(values)

    def read(self, closed: Any, places: list[Any]) -> list[Any]:
        """Adds the equations of a trace whose operands have these places; returns those of its results.

        Jitted functions are read as their equations: one may compute groups of leaves.
        """
        known: dict[Any, Any] = dict(zip(closed.jaxpr.invars, places, strict=True))
        for variable, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            known[variable] = self._new()
            self.values[known[variable]] = value

        def place(atom: Any) -> Any:
            return atom if _is_literal(atom) else known[atom]

        for equation in closed.jaxpr.eqns:
            operands = [place(atom) for atom in equation.invars]
            if equation.primitive.name in ("jit", "pjit"):
                made = self.read(equation.params["jaxpr"], operands)
            elif equation.primitive.name == "custom_jvp_call" and _reads_in_vain(equation):
                made = self.read(equation.params["call_jaxpr"], operands)
            elif equation.params.get("branches_platforms"):
                made = self.read(self._branch(equation.params), operands[1:])
            else:
                made = [self._new() for _ in equation.outvars]
                self._made_by.update(dict.fromkeys(made, len(self.operations)))
                self.operations.append(_Operation(equation, tuple(operands), tuple(made)))
            known.update(zip(equation.outvars, made, strict=True))
        return [place(atom) for atom in closed.jaxpr.outvars]

    def _branch(self, params: Any) -> Any:
        """The branch of a choice by platform."""
        pairs = zip(params["branches_platforms"], params["branches"], strict=True)
        chosen = {name: branch for names, branch in pairs for name in names or (None,)}
        return chosen.get(self._platform, chosen.get(None))

    def _new(self) -> int:
        self._next += 1
        return self._next

    def value(self, place: Any) -> Any:
        """The value at a place."""
        return place.val if _is_literal(place) else self.values[place]

    def evaluate(self, places: list[Any]) -> None:
        """Computes the values at these places, and what they need."""
        for index in sorted(self._needed(places)):
            self._compute(self.operations[index])

    def evaluate_effects(self) -> None:
        """Computes operations with effects, such as prints, whose results are not needed."""
        for operation in self.operations:
            is_done = operation.results and all(place in self.values for place in operation.results)
            if operation.equation.effects and not is_done:
                self.evaluate(list(operation.operands))
                self._compute(operation)

    def _compute(self, operation: _Operation) -> None:
        equation, operands, results = operation
        given = equation.primitive.get_bind_params(equation.params)
        functions, params = given if isinstance(given, tuple) else ((), given)  # a pair before jax 0.10
        with equation.ctx.manager:
            made = equation.primitive.bind(*functions, *map(self.value, operands), **params)
        made = made if equation.primitive.multiple_results else [made]
        self.values.update(zip(results, made, strict=True))

    def _needed(self, places: list[Any]) -> set[int]:
        found: set[int] = set()
        pending = list(places)
        while pending:
            place = pending.pop()
            if _is_literal(place) or place in self.values or self._made_by[place] in found:
                continue
            found.add(self._made_by[place])
            pending += self.operations[self._made_by[place]].operands
        return found


def _groups(
    operations: list[_Operation], results: list[Any], hosted: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """The results that read the same arrays of the host, and the places of these arrays.

    Those that read none come last: what the other groups need of them is computed with the first that does.
    """
    reads: dict[int, int] = {place: 1 << bit for bit, place in enumerate(hosted)}
    for operation in operations:
        mask = 0
        for place in operation.operands:
            mask |= 0 if _is_literal(place) else reads.get(place, 0)
        reads.update(dict.fromkeys(operation.results, mask))
    groups: list[tuple[int, list[int]]] = []
    for index, place in enumerate(results):
        mask, members = (0 if _is_literal(place) else reads.get(place, 0)), [index]
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
