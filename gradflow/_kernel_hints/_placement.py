"""Where XLA writes an array: over which other, beside which others, and in which order of its axes."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gradflow._kernel_hints._identity import hidden_false, may_link, same_values
from gradflow._kernel_hints._joining import LINKED, in_one_kernel

T = TypeVar("T")

_TOGETHER = 16  # arrays that one kernel writes


def in_place_of(old: jax.Array, new: jax.Array) -> jax.Array:
    """The new value, which a GPU may write where the old one is.

    A fusion that reads the old value for another result, and writes a new one that does not depend on it,
    needs a copy of the old one. So the new one seems to depend on it: an Adan step moves a sixth less.
    """
    if old.shape != new.shape or old.dtype != new.dtype or old.dtype not in LINKED or not may_link():
        return new
    return in_one_kernel([old, new])[1]


def written_together(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The same short arrays of a new state, of which one GPU writes those of one type together, last.

    A kernel that adds up, or finds the largest numbers, cannot write where it reads. What it replaces was
    copied: a kernel for each array. SM3 of 8 leaves launches 18, not 25. Coded arrays stay as they are.
    """
    results = list(arrays)
    groups: dict[Any, list[int]] = {}
    for place, x in enumerate(arrays):
        if isinstance(x, jax.Array) and x.dtype in LINKED and may_link():
            groups.setdefault((x.shape, x.dtype), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), _TOGETHER):
            part = places[start : start + _TOGETHER]
            for place, new in zip(part, _copies().bind(*[arrays[i] for i in part]), strict=True):
                results[place] = new
    return results


@functools.cache
def _copies() -> Any:
    """A primitive that returns its operands, of one type; one GPU writes them in one kernel."""
    return same_values("written_together", _linked_in_a_ring, on_one=True)


def _linked_in_a_ring(*values: jax.Array) -> list[jax.Array]:
    # Behind a barrier no link joins the kernel that makes the values.
    linked = list(jax.lax.optimization_barrier(values))
    for place, value in enumerate(linked):
        linked[place] = jax.lax.select(hidden_false(linked[place - 1]), jnp.zeros_like(value), value)
    return linked


def row_major(arrays: T) -> T:
    """The same arrays, which one GPU holds row after row."""
    leaves, structure = jax.tree.flatten(arrays)
    result: T = jax.tree.unflatten(structure, _rows().bind(*leaves)) if leaves else arrays
    return result


@functools.cache
def _rows() -> Any:
    """A primitive that returns its operands; on one GPU they lie row after row."""
    return same_values("row_major", lambda *values: [_flat_and_back(x) for x in values], on_one=True)


def _flat_and_back(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape) if x.ndim > 1 else x
