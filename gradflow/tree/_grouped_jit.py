"""One jitted function on many rows of leaves, as a program whose size grows with the root of their number.

A program over a thousand leaves is traced and lowered equation by equation. Rows of one type are called in
groups: a group is traced once, and each call of it is one equation. XLA inlines the calls, so the compiled
program is the same.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

LeafTuple = tuple[Any, ...]

# Fewer rows of a type than this are called one by one: groups would only add equations.
_FEWEST = 9


def call_in_groups(
    run: Callable[..., Any],
    rows: Sequence[LeafTuple],
    *shared: Any,
    join: Callable[[list[Any]], Any] | None = None,
    alone: Callable[..., Any] | None = None,
) -> list[Any]:
    """`[run(row, *shared) for row in rows]` for a jitted `run`; leaves of a row are arrays.

    `alone` is the same function without jit, for rows of tracers that are in no group: of one operation, a
    call would only be one more.

    With `join` there is one result per group: `join` of the results of its rows. Concrete arrays are called
    row by row, so that one compiled call serves any number of rows of a type.
    """
    if not is_traced(rows):
        return [run(row, *shared) for row in rows]
    one = alone or run
    if len(rows) < _FEWEST:
        return [one(row, *shared) for row in rows]
    results: list[Any] = [None] * len(rows)
    joined: list[Any] = []
    group = grouped(run, join)
    for places in _places(rows):
        size = math.isqrt(len(places)) if len(places) >= _FEWEST else 1
        whole = len(places) - len(places) % size if size > 1 else 0
        for start in range(0, whole, size):
            chunk = places[start : start + size]
            made = group([rows[i] for i in chunk], *shared)
            if join is not None:
                joined.append(made)
                continue
            for place, result in zip(chunk, made, strict=True):
                results[place] = result
        for place in places[whole:]:
            results[place] = one(rows[place], *shared)
            if join is not None:
                joined.append(results[place])
    return results if join is None else joined


def is_traced(rows: Sequence[LeafTuple]) -> bool:
    """Whether any leaf of the rows is a tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for row in rows for leaf in row)


def _places(rows: Sequence[LeafTuple]) -> list[list[int]]:
    """The indices of the rows of each type, in order."""
    places: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(tuple((leaf.shape, leaf.dtype) for leaf in row), []).append(index)
    return list(places.values())


@functools.lru_cache(maxsize=1024)
def grouped(run: Callable[..., Any], join: Callable[[list[Any]], Any] | None = None) -> Callable[..., Any]:
    """`run` for each of a list of rows, as one jitted function."""

    def group(rows: list[LeafTuple], *shared: Any) -> Any:
        results = [run(row, *shared) for row in rows]
        return results if join is None else join(results)

    group.__name__ = group.__qualname__ = f"{getattr(run, '__name__', 'run')}s"
    return jax.jit(group)
