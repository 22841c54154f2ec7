"""Some leaves of a packed tree as a packed tree, and back."""

import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.packed._layout import _FEW, BLOCK, Group, Layout, merge_runs
from gradflow.packed._pack import Packed


@functools.lru_cache(maxsize=1024)
def _part_of(layout: Layout, keep: tuple[bool, ...], structure: Any) -> Layout:
    shapes = tuple(itertools.compress(layout.shapes, keep))
    number = dict(zip(itertools.compress(range(len(keep)), keep), itertools.count(), strict=False))
    groups = []
    for group in layout.groups:
        own = [(number[i], n) for i, n in zip(group.leaves, group.blocks, strict=True) if keep[i]]
        if own:
            groups.append(Group(group.name, *map(tuple, zip(*own, strict=True))))
    return Layout(structure, shapes, tuple(groups))


def subset(packed: Packed, keep: Sequence[bool], structure: Any) -> Packed:
    """The leaves where `keep`, in the order of `jax.tree.leaves`, is True, as a tree of `structure`."""
    buffers = []
    for buffer, group in zip(packed.buffers, packed.layout.groups, strict=True):
        if not any(keep[index] for index in group.leaves):
            continue
        pieces = merge_runs([keep[index] for index in group.leaves], group.blocks)
        cut = jax.lax.split(buffer, [blocks * BLOCK for _, blocks in pieces])
        chosen = [part for part, (kept, _) in zip(cut, pieces, strict=True) if kept]
        buffers.append(_concatenated(chosen, buffer))
    return Packed(buffers, _part_of(packed.layout, tuple(keep), structure))


def merge_subsets(layout: Layout, owners: Sequence[Hashable], parts: Mapping[Hashable, Packed]) -> Packed:
    """The inverse of `subset`: takes each leaf from the part that owns it."""
    buffers = []
    for group in layout.groups:
        pieces = merge_runs([owners[index] for index in group.leaves], group.blocks)
        sources = {}
        for owner in dict.fromkeys(owners[index] for index in group.leaves):
            names = [own.name for own in parts[owner].layout.groups]
            buffer = parts[owner].buffers[names.index(group.name)]
            cut = jax.lax.split(buffer, [blocks * BLOCK for other, blocks in pieces if other == owner])
            sources[owner] = (buffer, iter(cut))
        first = next(iter(sources.values()))[0]
        buffers.append(_concatenated([next(sources[owner][1]) for owner, _ in pieces], first))
    return Packed(buffers, layout)


def _concatenated(pieces: Sequence[Any], like: Any) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return jnp.concatenate(pieces) if pieces else like[:0]


def expand_flags(group: Group, flags: Sequence[bool]) -> jax.Array:
    """The flag of its leaf for each number of a group's buffer."""
    pieces = merge_runs([flags[index] for index in group.leaves], group.blocks)
    ends = np.cumsum([blocks for _, blocks in pieces], dtype=np.int32)
    if len(pieces) > _FEW:
        chosen = jnp.asarray(np.repeat([bool(flag) for flag, _ in pieces], [blocks for _, blocks in pieces]))
    else:
        block = jax.lax.iota(np.int32, group.size // BLOCK)
        chosen = jnp.zeros(block.shape, bool)
        for (flag, blocks), end in zip(pieces, ends, strict=True):
            if flag:
                chosen |= (block >= end - blocks) & (block < end)
    return jnp.broadcast_to(chosen[:, None], (chosen.size, BLOCK)).ravel()


def where(flags: Sequence[bool], chosen: Packed, other: Packed) -> Packed:
    """`chosen` at the leaves whose flag is True, `other` elsewhere."""
    rows = zip(chosen.buffers, other.buffers, chosen.layout.groups, strict=True)
    return Packed([jnp.where(expand_flags(group, flags), x, y) for x, y, group in rows], chosen.layout)
