"""One block of quantized leaves through a rule: decoded, computed and coded in fast memory."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._coding._leaves import QUANTIZED, RoundedLeaf, advanced, is_coded, rounded
from gradflow._coding._random import mixed
from gradflow._rules._division import Division

# Smaller leaves stay in a cache, whatever XLA does.
LEAST = 2**16
_STORED = (np.dtype(np.float32), np.dtype(jnp.bfloat16))


class Layout(NamedTuple):
    """A leaf as a matrix whose blocks have `length` places along `axis`.

    It is a piece of a matrix with `stride` columns, or all of it: random numbers depend on places in that.
    """

    rows: int
    columns: int
    axis: int
    length: int
    stride: int


class Part(NamedTuple):
    """How an operand is stored: its kind of coding, None for an array; its dtype; whether it has a seed."""

    kind: Any
    dtype: np.dtype
    stochastic: bool


class Program(NamedTuple):
    """What a program over blocks is made of. Equal ones are one program."""

    rule: Callable[..., tuple[Any, ...]]  # of arrays, then scalars
    layout: Layout
    parts: tuple[Part, ...]
    results: int


def layout_of(leaves: Sequence[Any], division: Division | None = None) -> Layout | None:
    """The blocks that the quantized leaves share, or of a device's piece of them.

    None where they differ, leave a rest of the axis, or lie across devices.
    """
    quantized = [leaf for leaf in leaves if isinstance(leaf, QUANTIZED)]
    shape = leaves[0].shape
    if not quantized or math.prod(shape) < LEAST or any(leaf.shape != shape for leaf in leaves):
        return None
    if any(leaf.dtype not in _STORED for leaf in leaves):
        return None
    axis, count, length = quantized[0].blocks
    alike = all((leaf.blocks.axis, leaf.blocks.length) == (axis, length) for leaf in quantized)
    parts = division.parts if division else (1,) * len(shape)
    if not alike or count * length != shape[axis] or count % parts[axis]:
        return None
    *rows, columns = [size // part for size, part in zip(shape, parts, strict=True)]
    return Layout(math.prod(rows), columns, int(axis == len(shape) - 1), length, shape[-1])


def part_of(leaf: Any) -> Part:
    """How an operand is stored."""
    if not is_coded(leaf):
        return Part(None, leaf.dtype, False)
    return Part(type(leaf), leaf.codes.dtype, not isinstance(leaf.seed, tuple))


def matrices_of(leaf: Any) -> tuple[jax.Array, ...]:
    """What is stored of an operand: an array or codes, and scales, as matrices."""
    stored = leaf[:2] if isinstance(leaf, QUANTIZED) else leaf[:1] if is_coded(leaf) else (leaf,)
    return tuple([x.reshape(-1, x.shape[-1]) for x in stored])


def leaf_like(like: Any, matrices: Sequence[jax.Array]) -> Any:
    """The result of a rule for the operand `like`; the inverse of `matrices_of`, with the next seed."""
    if not is_coded(like):
        return matrices[0].reshape(like.shape)
    shaped = [x.reshape(old.shape) for x, old in zip(matrices, like, strict=False)]
    return type(like)(*shaped, advanced(like.seed))


def mixed_seeds(leaves: Sequence[Any], program: Program, first: Any) -> list[Any]:
    """What is added to places before they are hashed; None for operands that are not rounded at random.

    `first` is the place of a device's piece in the whole.
    """
    pairs = zip(leaves, program.parts, strict=True)
    return [mixed(leaf.seed) + jnp.uint32(first) if part.stochastic else None for leaf, part in pairs]


def drawn_seeds(program: Program, seeds: Sequence[jax.Array]) -> list[Any]:
    """The mixed seeds that a kernel has read, one for each operand that is rounded at random."""
    each = iter(seeds)
    return [next(each).astype(jnp.uint32) if part.stochastic else None for part in program.parts]


def places_of(shape: tuple[int, int], stride: int, row: Any, column: Any) -> jax.Array:
    """The places of a piece that begins at `row` and `column`, in the row-major order of a matrix."""
    # In int32, since the kernels of a TPU have no unsigned indices. Overflow wraps alike. XLA would hoist
    # a sum that begins with the piece's own places out of a loop, and read it again for each piece.
    rows = (jax.lax.broadcasted_iota(jnp.int32, shape, 0) + row) * np.int32(stride)
    return jax.lax.bitcast_convert_type(
        rows + (jax.lax.broadcasted_iota(jnp.int32, shape, 1) + column), jnp.uint32
    )


def run_block(
    program: Program,
    pieces: Sequence[tuple[jax.Array, ...]],
    scalars: Sequence[jax.Array],
    seeds: Sequence[Any],
    places: jax.Array,
) -> list[tuple[jax.Array, ...]]:
    """The stored results of pieces that hold whole blocks along the layout's axis."""
    axis = program.layout.axis
    wide = [
        part.kind.decode_blocks(*piece, axis) if len(piece) == 2 else piece[0].astype(jnp.float32)
        for part, piece in zip(program.parts, pieces, strict=True)
    ]
    made = []
    for result, part, seed in zip(program.rule(*wide, *scalars), program.parts, seeds, strict=False):
        bits = mixed(places + seed) if part.stochastic else None
        if part.kind in QUANTIZED:
            made.append(part.kind.encode_blocks(result, axis, bits))
        else:
            narrow = (
                rounded(result, part.dtype, bits) if part.kind is RoundedLeaf else result.astype(part.dtype)
            )
            made.append((narrow,))
    return made
