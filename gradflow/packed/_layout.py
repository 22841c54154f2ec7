"""Where each leaf of a packed tree lies in its buffer."""

import functools
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

_FEW = 16  # up to this many runs of leaves are found by comparison, more by lookup
BLOCK = 128  # numbers: the lanes of a TPU vector, and a multiple of a cache line on other devices


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
        """The number of elements of a leaf."""
        return math.prod(self.shapes[index])

    def pieces(self, group: Group) -> list[tuple[int | None, int]]:
        """The pieces of a buffer by index and length: each leaf, then its padding, with index None."""
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
    """Runs of equal flags, each with its total length."""
    paired = zip(flags, lengths, strict=True)
    merged = [(f, sum(n for _, n in own)) for f, own in itertools.groupby(paired, key=lambda pair: pair[0])]
    return [(flag, length) for flag, length in merged if length]
