"""A rule over quantized leaves on a CPU: a loop over pieces that stay in a cache."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradflow._rules._blockwise import (
    Program,
    leaf_like,
    matrices_of,
    mixed_seeds,
    places_of,
    run_block,
)

# Pieces of 256 x 1024 took the least time of 128 to 1024 columns: XLA calls a library for each maximum.
_ROWS, _COLUMNS = 256, 1024


@functools.lru_cache(maxsize=1024)
def loop(program: Program) -> Callable[..., tuple[Any, ...]]:
    """The program as a function of leaves and scalars."""
    layout = program.layout
    height = layout.length if layout.axis == 0 else _divisor(layout.rows, _ROWS)
    width = layout.length if layout.axis == 1 else _divisor(layout.columns, _COLUMNS)
    across = layout.columns // width

    def run(leaves: tuple[Any, ...], scalars: tuple[jax.Array, ...], first: Any = 0) -> tuple[Any, ...]:
        stored = [matrices_of(leaf) for leaf in leaves]
        seeds = mixed_seeds(leaves, program, first)

        def begin(x: jax.Array, i: Any) -> tuple[Any, Any]:
            return i // across * share(x, 0), i % across * share(x, 1)

        def share(x: jax.Array, axis: int) -> int:
            return (height, width)[axis] * x.shape[axis] // (layout.rows, layout.columns)[axis]

        def read(x: jax.Array, i: Any) -> jax.Array:
            return jax.lax.dynamic_slice(x, begin(x, i), (share(x, 0), share(x, 1)))

        def write(x: jax.Array, piece: jax.Array, i: Any) -> jax.Array:
            return jax.lax.dynamic_update_slice(x, piece, begin(x, i))

        def body(i: Any, results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
            # What is overwritten is read from where it is written, or XLA would copy it first.
            sources = [*results, *stored[program.results :]]
            pieces = [tuple([read(x, i) for x in arrays]) for arrays in sources]
            places = places_of((height, width), layout.stride, i // across * height, i % across * width)
            made = run_block(program, pieces, scalars, seeds, places)
            return jax.tree.map(lambda x, new: write(x, new, i), results, made)

        turns = layout.rows // height * across
        results = jax.lax.fori_loop(0, turns, body, stored[: program.results])
        return tuple([leaf_like(like, arrays) for like, arrays in zip(leaves, results, strict=False)])

    return run


def _divisor(size: int, most: int) -> int:
    """The largest divisor of `size` up to `most`; `size` itself where that is less than an eighth of it."""
    found = next(n for n in range(min(size, most), 0, -1) if size % n == 0)
    return found if found >= min(size, most) // 8 else size
