"""One function on many rows of equal leaves as a loop, whose body a CPU's XLA compiles once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._kernel_hints._order import in_turn, written_after
from gradflow._platform import by_platform
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups, is_traced
from gradflow.tree._unstack import row_at, unknown_indices

# Shorter loops would save little: their rows are called one by one.
_FEWEST = 4


def call_in_loops(
    run: Callable[..., Any], rows: Sequence[LeafTuple], *shared: Any, turns: bool = True
) -> list[Any]:
    """`call_in_groups` for a `run` with at most as many results as a row has leaves.

    The results replace the first leaves of a row, or are of other types.

    On a CPU rows of one type are stacked, and a loop replaces what changes in the stacks. XLA compiles 100
    Newton-Schulz iterations in 3.2 s, and a loop over them in 0.4 s. Accelerators call row after row, without
    a copy of the rows; one GPU in turn with `turns`.
    """
    if not is_traced(rows) or not _may_stack(rows):
        return call_in_groups(run, rows, *shared)
    results: list[Any] = [None] * len(rows)
    places: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(tuple((leaf.shape, leaf.dtype) for leaf in row), []).append(index)
    for chosen in places.values():
        mine = [rows[i] for i in chosen]
        if len(mine) < _FEWEST:
            made = [run(row, *shared) for row in mine]
        else:
            loop, one_by_one = (functools.partial(f, run) for f in (_loop, _in_turn if turns else _each))
            made = by_platform(mine, *shared, cpu=loop, accelerator=one_by_one)
        for index, new in zip(chosen, made, strict=True):
            results[index] = new
    return results


def _each(run: Callable[..., Any], rows: list[LeafTuple], *shared: Any) -> list[Any]:
    return [run(row, *shared) for row in rows]


def _in_turn(run: Callable[..., Any], rows: list[LeafTuple], *shared: Any) -> list[Any]:
    """Each row after the one before, so that a GPU holds what one row needs beside its results.

    What a row reads, but not what it replaces, waits for the results of the row before. A conditional would
    have copies of what waits. So where the shared numbers have one called `after`, it waits alone, and
    the conditional depends on it: SOAP of eight 1024 x 1024 leaves holds 2 matrices on an H100, not 41.
    """
    results: list[Any] = []
    numbers = shared[0] if shared and isinstance(shared[0], dict) else {}
    for row in rows:
        given = shared
        if results:
            before, structure = jax.tree.flatten(results[-1])
            if "after" in numbers:
                before, (after,) = in_turn(before, [jnp.asarray(numbers["after"])])
                given = ({**numbers, "after": after}, *shared[1:])
            else:
                kept = len(before) if len(before) < len(row) else 0
                before, rest = in_turn(before, row[kept:])
                row = (*row[:kept], *rest)
            results[-1] = jax.tree.unflatten(structure, before)
        results.append(run(row, *given))
    return results


def _may_stack(rows: Sequence[LeafTuple]) -> bool:
    """Not where types say that leaves lie on a mesh: a stack would have to be laid out, too."""
    explicit = any(jax.typeof(leaf).sharding.mesh.explicit_axes for row in rows for leaf in row)
    return not explicit and not jax.sharding.get_abstract_mesh().manual_axes


def _loop(run: Callable[..., Any], rows: list[LeafTuple], *shared: Any) -> list[Any]:
    made, structure = jax.tree.flatten(jax.eval_shape(run, rows[0], *shared))
    stacks = [jnp.stack(leaves) for leaves in zip(*rows, strict=True)]
    width = len(made)
    first = [
        stack if stack.shape[1:] == new.shape and stack.dtype == new.dtype else _zeros(len(rows), new)
        for stack, new in zip(stacks, made, strict=False)
    ]
    is_read = [k >= width or first[k] is not stack for k, stack in enumerate(stacks)]

    def body(i: jax.Array, written: list[jax.Array]) -> list[jax.Array]:
        own = [stack if is_read[k] else written[k] for k, stack in enumerate(stacks)]
        news = jax.tree.leaves(run(_row(own, i), *shared))
        return [
            jax.lax.dynamic_update_index_in_dim(stack, new, i, 0, allow_negative_indices=False)
            for stack, new in zip(written, news, strict=True)
        ]

    written = jax.lax.fori_loop(0, len(rows), body, first)
    return [jax.tree.unflatten(structure, _row(written, i)) for i in unknown_indices(len(rows))]


def in_loop(call: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """`call` on each row of stacks, one after the other. Results of a stack's type are written in its place.

    Beside the stacks a turn holds what one row needs; `vmap` would hold that of all rows.
    """

    def run(*stacks: Any) -> tuple[Any, ...]:
        one = jax.jit(call)  # traced for its types and called in the body, it is traced once
        count = jax.tree.leaves(list(stacks))[0].shape[0]
        rows = [jax.tree.map(lambda x: x[0], stack) for stack in stacks]
        made = jax.eval_shape(one, *rows)
        first = tuple(
            stack if _is_alike(row, new) else jax.tree.map(functools.partial(_zeros, count), new)
            for stack, row, new in zip(stacks, rows, made, strict=False)
        )
        replaces = [row is stack for row, stack in zip(first, stacks, strict=False)]

        def body(i: jax.Array, written: tuple[Any, ...]) -> tuple[Any, ...]:
            own = [written[k] if k < len(made) and replaces[k] else x for k, x in enumerate(stacks)]
            return _put(written, _first_last(one(*_row(own, i)), replaces), i)

        return tuple(jax.lax.fori_loop(0, count, body, first))

    return run


def _first_last(news: tuple[Any, ...], replaces: Sequence[bool]) -> tuple[Any, ...]:
    """The same results, of which those in the place of what is read are written after the first is there.

    XLA may compute the first one from the old row when that is written over, and would copy a whole stack at
    each turn to keep the row: in SOAP `nu`, by whose root it divides.
    """
    if not any(replaces[1:]):
        return news
    number = jax.tree.leaves(news[0])[0].ravel()[0]
    later = iter(written_after([new for new, own in zip(news[1:], replaces[1:], strict=True) if own], number))
    return news[0], *(next(later) if own else new for new, own in zip(news[1:], replaces[1:], strict=True))


def _is_alike(row: Any, new: Any) -> bool:
    """Whether a result can take the place of what is in a row."""
    structure: Any
    olds, structure = jax.tree.flatten(row)
    news = jax.tree.leaves(new)
    return bool(jax.tree.structure(new) == structure) and all(
        old.shape == x.shape and old.dtype == x.dtype for old, x in zip(olds, news, strict=True)
    )


def _zeros(count: int, like: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros((count, *like.shape), like.dtype)


def _row(stacks: Sequence[Any], i: jax.Array) -> LeafTuple:
    return tuple(jax.tree.map(lambda x: row_at(x, i), stack) for stack in stacks)


def _put(stacks: tuple[Any, ...], rows: tuple[Any, ...], i: jax.Array) -> tuple[Any, ...]:
    put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False)
    made: tuple[Any, ...] = jax.tree.map(lambda stack, row: put(stack, row, index=i), stacks, rows)
    return made
