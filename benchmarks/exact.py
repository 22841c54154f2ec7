"""Exact figures of a program, without a clock: its size, scratch memory and copies."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

# Instructions of a compiled program that only name existing values.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"}
_CONTROL = {"while", "conditional", "call"}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([a-z][\w\-]*)\(")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_DETAILS = re.compile(r", (?:metadata|backend_config)=.*")
_NAME = re.compile(r"%[\w.\-]+")
_WITHIN = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


def equations(jaxpr: Any, seen: set[int] | None = None) -> int:
    """Counts the equations of a traced program; those of a shared inner program count once."""
    seen = set() if seen is None else seen
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and id(inner) not in seen:
                seen.add(id(inner))
                total += equations(inner, seen)
    return total


def _instructions(text: str) -> Iterator[tuple[str, str, str]]:
    """Computation, operation and line of every instruction of a compiled program's text."""
    computation = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            computation = head[1]
        elif found := _INSTRUCTION.match(line):
            yield computation, found[1], line


def program_figures(text: str) -> dict[str, int]:
    """Copies, fusions, kinds, kernels and instructions of a compiled program, from its text.

    Kernels are the instructions outside of fusions and of the small programs that reductions apply. Those in
    the body of a loop count once.
    """
    every = list(_instructions(text))
    operations = Counter(operation for _, operation, _ in every)
    # The computation of a call runs on its own; that of a fusion or a reduction is inside a kernel.
    inner = {
        name for _, operation, line in every if operation not in _CONTROL for name in _WITHIN.findall(line)
    }
    return {
        "copies": operations["copy"] + operations["copy-start"],
        "fusions": operations["fusion"],
        "kinds": kinds_of_kernels(text),
        "kernels": sum(
            operation not in _FREE | _CONTROL and not operation.endswith("-done")
            for computation, operation, _ in every
            if computation not in inner
        ),
        "instructions": len(every),
    }


def kinds_of_kernels(text: str) -> int:
    """How many fusions of a compiled program differ, by their operations and the order of their operands.

    XLA's CPU compiles equal ones once. They take most of the time to compile a program of few leaves.
    """
    bodies: dict[str, list[str]] = {}
    called = []
    for computation, operation, line in _instructions(text):
        bodies.setdefault(computation, []).append(_DETAILS.sub("", line))
        if operation == "fusion":
            called += _WITHIN.findall(line)
    return len({_with_names_in_order(_flat(name, bodies)) for name in called})


def _flat(name: str, bodies: dict[str, list[str]]) -> str:
    """A computation with those that it calls in their places."""
    return _WITHIN.sub(lambda found: _flat(found[1], bodies), "\n".join(bodies.get(name, [])))


def _with_names_in_order(text: str) -> str:
    names: dict[str, str] = {}
    return _NAME.sub(lambda found: names.setdefault(found[0], f"%{len(names)}"), text)


def nbytes(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))


def scratch(compiled: Any) -> int | None:
    """Bytes that a program needs besides its arguments and results; None if the device reports none."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
