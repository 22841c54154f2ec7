"""Coded leaves of arrays: the first ones of a state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._coding._blocks import blocks_of, even_blocks_of
from gradflow._coding._leaves import Coded, PackedMean, QuantizedMean, QuantizedSquare, RoundedLeaf


@functools.partial(jax.jit, static_argnames="dtype")
def rounded_leaf(x: jax.Array, seed: Any, dtype: Any) -> RoundedLeaf:
    """`x` in a narrower dtype, rounded to nearest; later values are rounded with `seed`."""
    return RoundedLeaf(jnp.zeros_like(x, dtype)).encode(x)._replace(seed=seed)


@functools.partial(jax.jit, static_argnames=("role", "bits", "block"))
def quantized_leaf(x: jax.Array, seed: Any, role: str, bits: int, block: int) -> Coded:
    """`x` as codes of 4 or 8 bits and a scale for each block, rounded to nearest; later ones with `seed`.

    An array has 8 bits where no axis can be divided into even blocks of half the length that was asked for.
    """
    # XLA would compute the codes of constant moments when it compiles, number by number.
    x = jax.lax.optimization_barrier(x)
    even = even_blocks_of(x.shape, block) if bits == 4 else None
    blocks = blocks_of(x.shape, block) if even is None else even
    divided = blocks.split(x.astype(jnp.float32))
    scales = jnp.max(divided, blocks.axis + 1)
    template: Coded
    if role == "square":
        template = QuantizedSquare(jnp.zeros_like(x, jnp.uint8), scales)
    elif even is None:
        template = QuantizedMean(jnp.zeros_like(x, jnp.int8), scales)
    else:
        half = jax.lax.slice_in_dim(divided, 0, even.length // 2, axis=even.axis + 1)
        packed = blocks.join(jnp.zeros_like(half, jnp.uint8), x.shape[even.axis] // 2)
        template = PackedMean(packed, scales)
    return template.encode(x)._replace(seed=seed)
