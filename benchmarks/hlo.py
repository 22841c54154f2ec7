"""What a compiled program launches and moves, read from its text. Nothing here needs the device."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gradflow.sharding._programs import Instruction, computations_of

_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\d+m\d+\w*)?|pred)\[([\d,]*)\](?:\{([^}]*)\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_CALLED = re.compile(r"(?:to_apply|calls)=%?([\w.\-]+)")
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")

# Instructions that only name what exists already.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "add-dependency",
}  # fmt: skip
# Instructions whose result is their operands, or is written in their place.
_NAMES = {"tuple", "get-tuple-element", "bitcast", "opt-barrier", "add-dependency", "while"}
# Custom calls that launch nothing: they mark or allocate.
_MARKERS = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "Sharding"}
# Asynchronous reads into the core's own memory, which overlap with kernels.
_PREFETCHES = {"copy-start", "slice-start"}
# A copied scalar is not a copy of a leaf.
SMALL = 4096  # bytes


@dataclass(frozen=True)
class Cost:
    """What a computation launches and moves when it runs once; of a conditional, its largest branch.

    Attributes:
      kernels: fusions, reductions, copies and library calls that run one by one. On a TPU only those with
        an estimate of cycles: the others are scalars, or reads ahead that overlap with kernels.
      copies: copies of at least 4096 bytes that stay in the device's memory.
      calls: library calls.
      moved: bytes of the operands and the results of all kernels, in the device's memory.
      cycles: the compiler's own estimate; 0 where it gives none.
      branches: the kernels of each branch of each conditional.
    """

    kernels: int = 0
    copies: int = 0
    calls: int = 0
    moved: int = 0
    cycles: int = 0
    branches: tuple[tuple[int, ...], ...] = field(default=())

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.kernels + other.kernels, self.copies + other.copies, self.calls + other.calls,
            self.moved + other.moved, self.cycles + other.cycles, self.branches + other.branches,
        )  # fmt: skip


def _array_bytes(dtype: str, sizes: str, layout: str | None) -> int:
    if layout and "S(" in layout:  # in the core's own memory
        return 0
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8


def type_bytes(text: str) -> int:
    """Bytes that a type takes in the device's memory: those of all arrays of a tuple."""
    return sum(_array_bytes(*found) for found in _ARRAY.findall(text))


def cost(text: str) -> Cost:
    """The cost of a compiled program, from its text; the body of a loop counts once."""
    computations, entry = computations_of(text)
    return _cost_of(entry, computations)


def _cost_of(name: str, computations: Mapping[str, list[Instruction]]) -> Cost:
    types = {one.name: one.type for one in computations[name]}
    return sum((_of_one(one, types, computations) for one in computations[name]), Cost())


def _of_one(
    one: Instruction, types: Mapping[str, str], computations: Mapping[str, list[Instruction]]
) -> Cost:
    if one.operation in _FREE or one.operation.endswith("-done"):
        return Cost()
    if one.operation == "conditional":
        found = [_cost_of(branch, computations) for branch in one.branches]
        largest = max(found, key=lambda each: (each.moved, each.kernels))
        inner = tuple(each.kernels for each in found)
        return replace(largest, branches=(inner, *largest.branches))
    if one.operation in ("call", "while"):
        return sum((_cost_of(inner, computations) for inner in _called_by(one)), Cost())
    return _kernel(one, types)


def held(text: str) -> int:
    """Bytes of arrays in the device's memory beside arguments and results, at their peak, from the text.

    A TPU's compiler counts as temporary memory also what its reads ahead need: 16 KiB for each table of
    addresses, however small or large the arrays are. These are left out.
    """
    computations, entry = computations_of(text)
    return _held_in(entry, computations)


def _held_in(name: str, computations: Mapping[str, list[Instruction]]) -> int:
    body = computations[name]
    made: dict[str, frozenset[str]] = {}  # the instructions whose arrays a name stands for
    last: dict[str, int] = {}
    for place, one in enumerate(body):
        sources = frozenset[str]().union(*(made.get(each, ()) for each in one.operands))
        last.update(dict.fromkeys(sources, place))
        made[one.name] = sources if one.operation in _NAMES else frozenset({one.name})
    results = made[body[-1].name]
    alive: dict[str, int] = {}
    peak = 0
    for place, one in enumerate(body):
        # What is read for the last time may be overwritten by what is made of it.
        alive = {each: size for each, size in alive.items() if last.get(each, 0) > place}
        is_made = one.operation not in _FREE | _NAMES and not one.operation.endswith("-start")
        alive[one.name] = type_bytes(one.type) if is_made and one.name not in results else 0
        called = [*one.branches, *_called_by(one)]
        inside = max((_held_in(each, computations) for each in called), default=0)
        peak = max(peak, sum(alive.values()) + inside)
    return peak


def _called_by(one: Instruction) -> list[str]:
    """The computations that a call or a loop runs as they are; those of a fusion hold nothing."""
    if one.operation not in ("call", "while"):
        return []
    pattern = _LOOP if one.operation == "while" else _CALLED
    return [name for found in pattern.findall(one.rest) for name in _flat(found)]


def _flat(found: str | tuple[str, ...]) -> tuple[str, ...]:
    return (found,) if isinstance(found, str) else found


def _kernel(one: Instruction, types: Mapping[str, str]) -> Cost:
    target = _TARGET.search(one.rest)
    if target and target[1] in _MARKERS:
        return Cost()
    result = type_bytes(one.type)
    if one.operation in _PREFETCHES and "S(1)" in one.type:
        # Of a slice only the part that is read counts, whose type comes second.
        part = _ARRAY.findall(one.type)[1 if one.operation == "slice-start" else 0]
        return Cost(moved=_array_bytes(part[0], part[1], None))
    if one.operation == "copy-start":
        result //= 2  # the result names its source, too
    cycles = _CYCLES.search(one.rest)
    on_scalars = "backend_config" in one.rest and "flag_configs" in one.rest and not cycles
    # What comes from the core's own memory is written for the first time.
    read = sum(type_bytes(types.get(name, "")) for name in dict.fromkeys(one.operands))
    return Cost(
        kernels=int(not on_scalars),
        copies=int(one.operation in ("copy", "copy-start") and min(result, read) >= SMALL),
        calls=int(target is not None),
        moved=result + read,
        cycles=int(cycles[1]) if cycles else 0,
    )
