"""A rule over quantized leaves on a TPU: one kernel that writes where it reads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._rules._blockwise import (
    Layout,
    Program,
    drawn_seeds,
    leaf_like,
    matrices_of,
    mixed_seeds,
    places_of,
    run_block,
)

# A register holds 32 x 128 codes. A tile of 2^18 numbers of AdamW and its next one fit into 16 MB.
_SUBLANES, _LANES, _MOST = 32, 128, 2**18


def fits(layout: Layout) -> bool:
    """Whether blocks are whole registers, and tiles fit into the memory of a core."""
    # With 64 bits a loop counts in int64, which a kernel cannot multiply.
    if jnp.result_type(int) == np.int64:
        return False
    if layout.axis == 1:
        return layout.length % _LANES == 0 and layout.columns * _SUBLANES <= _MOST
    return layout.length % _SUBLANES == 0 and layout.columns >= _LANES and layout.length * _LANES * 8 <= _MOST


@functools.lru_cache(maxsize=1024)
def kernel(program: Program, *, interpret: bool = False) -> Callable[..., tuple[Any, ...]]:
    """The program as a function of leaves and scalars."""
    layout = program.layout
    tile, inside = _tile_of(layout)
    piece = (layout.length, tile[1]) if layout.axis == 0 else (tile[0], layout.length)

    def run(leaves: tuple[Any, ...], scalars: tuple[jax.Array, ...], first: Any = 0) -> tuple[Any, ...]:
        from jax.experimental import pallas as pl  # 0.2 s, and only a TPU needs it
        from jax.experimental.pallas import tpu as pltpu

        seeds = [seed for seed in mixed_seeds(leaves, program, first) if seed is not None]
        numbers = [*scalars, *(jax.lax.bitcast_convert_type(seed, jnp.int32) for seed in seeds)]
        arrays, structure = jax.tree.flatten([matrices_of(leaf) for leaf in leaves])
        written, result_structure = jax.tree.flatten(
            [matrices_of(leaf) for leaf in leaves[: program.results]]
        )
        count, outputs = len(numbers), len(written)

        def body(*refs: Any) -> None:
            values = [ref[0] for ref in refs[:count]]
            sources = jax.tree.unflatten(structure, refs[count : count + len(arrays)])
            targets = jax.tree.unflatten(result_structure, refs[count + len(arrays) :])
            drawn = drawn_seeds(program, values[len(scalars) :])
            row, column = pl.program_id(0) * tile[0], pl.program_id(1) * tile[1]
            down, across = (layout.length, 0) if layout.axis == 0 else (0, layout.length)

            def one(i: Any) -> None:
                def place(ref: Any) -> Any:
                    size = ref.shape[layout.axis] // inside
                    if layout.axis == 1:
                        return (slice(None), slice(i * size, (i + 1) * size))
                    return (
                        pl.ds(i * size if size == 1 else pl.multiple_of(i * size, size), size),
                        slice(None),
                    )

                pieces = [tuple([ref[place(ref)] for ref in parts]) for parts in sources]
                places = places_of(piece, layout.stride, row + i * down, column + i * across)
                made = run_block(program, pieces, values[: len(scalars)], drawn, places)
                for ref, new in zip(jax.tree.leaves(targets), jax.tree.leaves(made), strict=True):
                    ref[place(ref)] = new

            if layout.axis == 0:
                jax.lax.fori_loop(0, inside, lambda i, _: one(i), None)
            else:  # a place along lanes is part of the code
                for i in range(inside):
                    one(i)

        def spec(x: jax.Array) -> Any:
            size = inside * (x.shape[layout.axis] // _blocks_along(layout))
            shape = (size, tile[1]) if layout.axis == 0 else (tile[0], size)
            return pl.BlockSpec(shape, lambda i, j: (i, j))

        made = pl.pallas_call(
            body,
            grid=(pl.cdiv(layout.rows, tile[0]), pl.cdiv(layout.columns, tile[1])),
            in_specs=[*[pl.BlockSpec(memory_space=pltpu.SMEM) for _ in numbers], *map(spec, arrays)],
            out_specs=list(map(spec, written)),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written],
            input_output_aliases={count + k: k for k in range(outputs)},
            interpret=interpret,
            name="quantized_blocks",
        )(*[x.reshape(1) for x in numbers], *arrays)
        results = jax.tree.unflatten(result_structure, made)
        return tuple([leaf_like(like, each) for like, each in zip(leaves, results, strict=False)])

    return run


def _tile_of(layout: Layout) -> tuple[tuple[int, int], int]:
    """The shape of a tile, and how many blocks lie inside it along the axis."""
    if layout.axis == 0:
        inside = min(8, _blocks_along(layout))  # scales fill whole registers, or the whole axis
        return (inside * layout.length, _LANES), inside
    rows = _MOST // layout.columns // _SUBLANES * _SUBLANES
    return (min(rows, layout.rows), layout.columns), _blocks_along(layout)


def _blocks_along(layout: Layout) -> int:
    return (layout.rows, layout.columns)[layout.axis] // layout.length
