"""A rule over quantized leaves on a GPU: one kernel that writes where it reads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._coding._leaves import advanced
from gradflow._coding._random import mixed
from gradflow._rules._blockwise import (
    Layout,
    Program,
    drawn_seeds,
    leaf_like,
    matrices_of,
    places_of,
    run_block,
)
from gradflow._rules._nan_kept import nan_kept

# 16 numbers of each operand per thread: with 32, AdamW's kernel spilled registers of an H100.
_NUMBERS, _WARPS, _NARROWEST = 4096, 8, 16


def tiles(layout: Layout) -> tuple[int, int] | None:
    """The shape of a tile, one block along the axis; None where tiles do not fill the matrix.

    Sides are powers of two, as the language of kernels asks, and indices are of 32 bits.
    """
    across = (layout.columns, layout.rows)[layout.axis]
    width = min(_NUMBERS // layout.length, across & -across)  # the largest power of two that divides it
    if layout.length & (layout.length - 1) or width < (_NARROWEST if layout.axis == 0 else 1):
        return None
    if layout.length < _NARROWEST or layout.rows * layout.stride >= 2**31 or jnp.result_type(int) == np.int64:
        return None
    return (layout.length, width) if layout.axis == 0 else (width, layout.length)


@functools.lru_cache(maxsize=1024)
def gpu_kernel(
    program: Program, tile: tuple[int, int], *, interpret: bool = False
) -> Callable[..., tuple[Any, ...]]:
    """The program as a function of leaves, scalars and the place where a device's piece begins."""
    layout = program.layout
    across = layout.columns // tile[1]

    def place_of(turn: Any) -> tuple[Any, Any]:
        # Along rows, since neighbors share pieces of a cache. A second axis would have 65535 places at most.
        return jax.lax.div(turn, across), jax.lax.rem(turn, across)

    def run(leaves: tuple[Any, ...], scalars: tuple[jax.Array, ...], first: Any = 0) -> tuple[Any, ...]:
        from jax.experimental import pallas as pl  # 0.2 s, and only a GPU needs it
        from jax.experimental.pallas import triton

        # Seeds are mixed in the kernel, where no launch is needed. It reads those of the next step: a seed
        # that was still read would be copied before it is overwritten, by a launch for each.
        pairs = zip(leaves, program.parts, strict=True)
        seeds = [advanced(leaf.seed) for leaf, part in pairs if part.stochastic]
        numbers = [*scalars, *seeds, jnp.uint32(first)]
        arrays, structure = jax.tree.flatten([matrices_of(leaf) for leaf in leaves])
        written, result_structure = jax.tree.flatten(
            [matrices_of(leaf) for leaf in leaves[: program.results]]
        )
        count = len(numbers)

        def body(*refs: Any) -> None:
            values = [ref[0] for ref in refs[:count]]
            mixtures = [mixed(seed - np.uint32(1)) + values[-1] for seed in values[len(scalars) : -1]]
            drawn = drawn_seeds(program, mixtures)
            inside = [ref[...] for ref in refs[count : count + len(arrays)]]
            pieces = jax.tree.unflatten(structure, inside)
            row, column = place_of(pl.program_id(0))
            places = places_of(tile, layout.stride, row * tile[0], column * tile[1])
            block: Callable[..., Any] = functools.partial(run_block, program)
            if not interpret:  # an interpreter keeps NaN, and rounds otherwise with other operations
                block = nan_kept(block)
            made = block(pieces, values[: len(scalars)], drawn, places)
            for ref, new in zip(refs[count + len(arrays) :], jax.tree.leaves(made), strict=True):
                ref[...] = new

        def spec(x: jax.Array) -> Any:
            share = x.shape[layout.axis] * layout.length // (layout.rows, layout.columns)[layout.axis]
            shape = (share, tile[1]) if layout.axis == 0 else (tile[0], share)
            return pl.BlockSpec(shape, place_of)

        made = pl.pallas_call(
            body,
            grid=(layout.rows // tile[0] * across,),
            in_specs=[*[pl.BlockSpec((1,), lambda _: (0,)) for _ in numbers], *map(spec, arrays)],
            out_specs=list(map(spec, written)),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written],
            input_output_aliases={count + k: k for k in range(len(written))},
            compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=1),
            interpret=interpret,
            name="quantized_blocks",
        )(*[jnp.reshape(x, 1) for x in numbers], *arrays)
        results = jax.tree.unflatten(result_structure, made)
        return tuple([leaf_like(like, each) for like, each in zip(leaves, results, strict=False)])

    return run
