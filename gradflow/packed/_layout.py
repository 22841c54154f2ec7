"""Where each leaf of a packed tree lies in its buffer."""

import functools
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

_FEW = 16  # runs of leaves that are told apart by comparing; more are looked up
BLOCK = 128  # numbers; the lanes of a TPU's vector, and a whole number of cache lines elsewhere


class Group(NamedTuple):
    """The leaves of one dtype: their indices in the tree, in the order of the buffer, and their blocks."""

    name: str
    leaves: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def size(self) -> int:
        return BLOCK * sum(self.blocks)


class Layout(NamedTuple):
    """Where each leaf of a tree lies; trees of equal structure, shapes and dtypes have equal layouts."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[Group, ...]

    def size(self, index: int) -> int:
        """How many numbers a leaf has."""
        return math.prod(self.shapes[index])

    def pieces(self, group: Group) -> list[tuple[int | None, int]]:
        """A buffer's pieces by index and length: each leaf, and the zeros behind it, which have no index."""
        pieces: list[tuple[int | None, int]] = []
        for index, blocks in zip(group.leaves, group.blocks, strict=True):
            size = self.size(index)
            pieces += [(index, size), (None, blocks * BLOCK - size)]
        return [(index, size) for index, size in pieces if size or index is not None]


@functools.lru_cache(maxsize=1024)
def _arrange(structure: Any, shapes: tuple[tuple[int, ...], ...], names: tuple[str, ...]) -> Layout:
    groups = []
    for name in dict.fromkeys(names):
        own = sorted((i for i, n in enumerate(names) if n == name), key=lambda i: -len(shapes[i]))
        blocks = tuple(-(-math.prod(shapes[i]) // BLOCK) for i in own)
        groups.append(Group(name, tuple(own), blocks))
    return Layout(structure, shapes, tuple(groups))


def merge_runs(flags: Sequence[Hashable], lengths: Sequence[int]) -> list[tuple[Hashable, int]]:
    """Neighbours with equal flags as one, with their whole length."""
    paired = zip(flags, lengths, strict=True)
    merged = [(f, sum(n for _, n in own)) for f, own in itertools.groupby(paired, key=lambda pair: pair[0])]
    return [(flag, length) for flag, length in merged if length]
