"""A traced function as equations, which may be computed in another order."""

import contextlib
from typing import Any, NamedTuple

import jax


class Operation(NamedTuple):
    """An equation of the trace, the places of its operands (or literals), and those of its results.

    `scope` is its name in profiles, by `jax.named_scope`.
    """

    equation: Any
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    scope: str


def is_literal(atom: Any) -> bool:
    """Whether an operand is a number in the trace itself."""
    return hasattr(atom, "val")  # the class is in jax.extend, which imports for 0.1 s


def _reads_in_vain(equation: Any) -> bool:
    """Whether a function with a derivative of its own returns operands, and reads others for derivatives.

    A guard's does, and reads the whole state.
    """
    jaxpr = equation.params["call_jaxpr"].jaxpr
    return not jaxpr.eqns and len(jaxpr.outvars) < len(jaxpr.invars)


class TracedProgram:
    """The equations of a trace without calls of jitted functions, and the values that are known."""

    def __init__(self, values: dict[int, Any], platform: str | None) -> None:
        self.values, self._platform = values, platform
        self.operations: list[Operation] = []
        self._made_by: dict[int, int] = {}
        self._next = len(values)

    def read(self, closed: Any, places: list[Any], opens: bool = True, scope: str = "") -> list[Any]:
        """Adds the equations of a trace whose operands have these places; returns those of its results.

        Jitted functions are read as their equations: one may compute groups of leaves. So are choices by
        platform, as its branch. Not so without `opens`. They are computed inside `scope`.
        """
        known: dict[Any, Any] = dict(zip(closed.jaxpr.invars, places, strict=True))
        for variable, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            known[variable] = self._new()
            self.values[known[variable]] = value

        def place(atom: Any) -> Any:
            return atom if is_literal(atom) else known[atom]

        for equation in closed.jaxpr.eqns:
            operands = [place(atom) for atom in equation.invars]
            own = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
            if not opens:
                made = self._add(equation, operands, own)
            elif equation.primitive.name in ("jit", "pjit"):
                made = self.read(equation.params["jaxpr"], operands, scope=own)
            elif equation.primitive.name == "custom_jvp_call" and _reads_in_vain(equation):
                made = self.read(equation.params["call_jaxpr"], operands, scope=own)
            elif equation.params.get("branches_platforms"):
                made = self.read(self._branch(equation.params), operands[1:], scope=own)
            else:
                made = self._add(equation, operands, own)
            known.update(zip(equation.outvars, made, strict=True))
        return [place(atom) for atom in closed.jaxpr.outvars]

    def _add(self, equation: Any, operands: list[Any], scope: str) -> list[int]:
        made = [self._new() for _ in equation.outvars]
        self._made_by.update(dict.fromkeys(made, len(self.operations)))
        self.operations.append(Operation(equation, tuple(operands), tuple(made), scope))
        return made

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
        return place.val if is_literal(place) else self.values[place]

    def evaluate(self, places: list[Any]) -> None:
        """Computes the values at these places, and what they need."""
        for operation in self.needed(places):
            self.compute(operation)

    def evaluate_effects(self) -> None:
        """Computes operations with effects, such as prints, whose results are not needed."""
        for operation in self.operations:
            is_done = operation.results and all(place in self.values for place in operation.results)
            if operation.equation.effects and not is_done:
                self.evaluate(list(operation.operands))
                self.compute(operation)

    def compute(self, operation: Operation) -> None:
        """Computes the results of an operation, whose operands are known."""
        equation, operands, results, scope = operation
        given = equation.primitive.get_bind_params(equation.params)
        functions, params = given if isinstance(given, tuple) else ((), given)  # a pair before jax 0.10
        named = jax.named_scope(scope) if scope else contextlib.nullcontext()
        with equation.ctx.manager, named:
            made = equation.primitive.bind(*functions, *map(self.value, operands), **params)
        made = made if equation.primitive.multiple_results else [made]
        self.values.update(zip(results, made, strict=True))

    def needed(self, places: list[Any]) -> list[Operation]:
        """What has not been computed of these places and of what they need, in order."""
        found: set[int] = set()
        pending = list(places)
        while pending:
            place = pending.pop()
            if is_literal(place) or place in self.values or self._made_by[place] in found:
                continue
            found.add(self._made_by[place])
            pending += self.operations[self._made_by[place]].operands
        return [self.operations[index] for index in sorted(found)]
