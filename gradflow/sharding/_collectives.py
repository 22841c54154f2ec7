"""The collectives of a compiled program, read from its text."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gradflow.sharding._programs import Instruction, computations_of

_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\d+m\d+\w*)?|pred)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:to_apply|calls|called_computations|body)=\{?%?([\w.\-]+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=(?:@)?mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_KINDS = (
    "all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter", "collective-permute",
    "collective-broadcast",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind along the same axes.

    - `kind`: the name in XLA, such as "all-reduce".
    - `axes`: names of the mesh's axes along which devices exchange; "?" if they are along none.
    - `where`: "step", "branch" for a branch of a conditional, or "loop" for the body of a loop.
    - `count`: how many a call of the program makes. The body of a loop counts for each turn, or once if XLA
      does not know their number.
    - `bytes`: of the operands or of the results on one device, whichever are more, of all of them.
    """

    kind: str
    axes: tuple[str, ...]
    where: str
    count: int
    bytes: int


def collectives(text: str, axes: Mapping[str, int]) -> tuple[Collective, ...]:
    """The collectives of a program for a mesh of these axes, the largest first."""
    computations, entry = computations_of(text)
    found: dict[tuple[str, tuple[str, ...], str], list[tuple[int, int]]] = {}
    for key, size, times in _walk(computations, entry, "step", axes, 1):
        found.setdefault(key, []).append((times, times * size))
    rows = [Collective(*key, *map(sum, zip(*each, strict=True))) for key, each in found.items()]
    order = {"step": 0, "loop": 1, "branch": 2}
    return tuple(sorted(rows, key=lambda row: (order[row.where], -row.bytes, row.kind, row.axes)))


def _walk(
    computations: Mapping[str, list[Instruction]], name: str, where: str, axes: Mapping[str, int], times: int
) -> Iterator[tuple[tuple[str, tuple[str, ...], str], int, int]]:
    """For each collective its kind, axes and place, its bytes, and how often it is made."""
    own = computations.get(name, [])
    sizes = {one.name: _bytes(one.type) for one in own}
    for one in own:
        kind = _kind(one)
        if kind is not None:
            yield (kind, _axes(one.rest, axes), where), _size(one, sizes), times
            continue
        turns = _TURNS.search(one.rest) if one.operation == "while" else None
        for called, inner in _called(one, where):
            # XLA on a TPU joins an all-reduce with the slice of its result that each device keeps.
            scatters = called.startswith("all-reduce-scatter")
            inside = times * int(turns[1]) if turns else times
            for (found, names, place), size, made in _walk(computations, called, inner, axes, inside):
                yield ("reduce-scatter" if scatters else found, names, place), size, made


def _kind(one: Instruction) -> str | None:
    operation = one.operation.removesuffix("-start")
    return operation if operation in _KINDS else None


def _called(one: Instruction, where: str) -> Iterator[tuple[str, str]]:
    if one.operation == "conditional":
        yield from ((name, "branch") for name in one.branches)
    elif one.operation.endswith(("-done", "-update")):
        return
    else:
        inner = "loop" if one.operation == "while" and where == "step" else where
        yield from ((name, inner) for name in _CALLED.findall(one.rest))


def _size(one: Instruction, sizes: Mapping[str, int]) -> int:
    operands = sum(sizes.get(name, 0) for name in one.operands)
    result = _bytes(one.type)
    if one.operation.endswith("-start") and one.operation != "all-reduce-start":
        result -= operands  # the result of such a start names the operands, too
    return max(operands, result)


def _bytes(text: str) -> int:
    total = 0
    for dtype, sides in _ARRAY.findall(text):
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        total += math.prod(int(side) for side in sides.split(",") if side) * bits // 8
    return total


def _axes(rest: str, axes: Mapping[str, int]) -> tuple[str, ...]:
    """The fewest axes of the mesh along which the devices of each group differ."""
    ids = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    groups = _groups(rest, ids.size)
    place = {int(i): tuple(map(int, np.argwhere(ids == i)[0])) for i in ids.flat}
    names = tuple(axes)
    differing = {
        names[k]
        for group in groups
        for i in group
        for k in range(len(names))
        if i in place and place[i][k] != place[group[0]][k]
    }
    if not differing and groups and all(len(group) == 1 for group in groups):
        return ()
    return tuple(name for name in names if name in differing) or ("?",)


def _groups(rest: str, size: int) -> list[list[int]]:
    """The groups of device numbers of a collective, in any of the forms in which XLA prints them."""
    if found := _MESH.search(rest):
        sides = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", found[1])}
        ids = _iota(_numbers(found[2]) or [size], _numbers(found[3])).reshape(tuple(sides.values()))
        along = [place for place, name in enumerate(sides) if f"'{name}'" in found[4]]
        others = [place for place in range(len(sides)) if place not in along]
        return _rows(ids.transpose(others + along), math.prod(ids.shape[k] for k in along))
    if found := _IOTA.search(rest):
        shape = _numbers(found[1])
        return _rows(_iota(_numbers(found[2]), _numbers(found[3])), shape[-1])
    if found := _LISTED.search(rest):
        groups = [_numbers(part) for part in re.findall(r"\{([\d,]*)\}", found[1])]
        return [group for group in groups if group] or [list(range(size))]
    return [list(range(size))]


def _iota(sides: list[int], order: list[int]) -> Any:
    ids = np.arange(math.prod(sides)).reshape(sides)
    return ids.transpose(order) if order else ids


def _rows(ids: Any, width: int) -> list[list[int]]:
    return [list(map(int, row)) for row in ids.reshape(-1, width)]


def _numbers(text: str | None) -> list[int]:
    return [int(part) for part in (text or "").split(",") if part]
