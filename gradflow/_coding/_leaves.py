"""Coded leaves: a float32 array in fewer bits, as codes of its own shape.

A coded leaf stands in a state where the array would be. It has the array's `shape`, `dtype`, and two
methods: `decode()`, and `encode(x)`, the coded leaf of new numbers. Rounding is stochastic where there is
a seed, and to the nearest code where `seed` is empty.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._coding._blocks import Blocks, blocks_between
from gradflow._coding._random import random_bits, unit_interval
from gradflow._shardings import reshaped, spec_of, with_sharding_of
from gradflow._types import is_absent

_FLOAT32 = np.dtype(np.float32)


class RoundedLeaf(NamedTuple):
    """An array in bfloat16 or float16."""

    codes: jax.Array
    seed: Any = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.codes.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded array."""
        return _FLOAT32

    def decode(self) -> jax.Array:
        """The array in float32."""
        return self.codes.astype(jnp.float32)

    def encode(self, x: jax.Array) -> "RoundedLeaf":
        """`x` in the same dtype, with the next seed."""
        codes = rounded(x.astype(jnp.float32), self.codes.dtype, _bits(self.seed, x))
        return RoundedLeaf(with_sharding_of(codes, self.codes), advanced(self.seed))


class QuantizedMean(NamedTuple):
    """A signed array in 8 bits: `sign(code) * (code / 127)^2 * scale`."""

    codes: jax.Array
    scales: jax.Array
    seed: Any = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.codes.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded array."""
        return _FLOAT32

    @property
    def blocks(self) -> Blocks:
        """The blocks of the array."""
        return blocks_between(self.shape, self.scales.shape)

    @staticmethod
    def decode_blocks(codes: jax.Array, scales: jax.Array, axis: int) -> jax.Array:
        """Whole blocks along `axis`, times their scales, which have one place there."""
        return _signed_squares(codes, 127) * scales

    @staticmethod
    def encode_blocks(x: jax.Array, axis: int, bits: Any) -> tuple[jax.Array, jax.Array]:
        """The codes and scales of whole blocks along `axis`, rounded by random bits, or to nearest."""
        codes, scales = _encoded_mean(x, axis, 127, bits)
        return _integers(codes).astype(jnp.int8), scales

    def decode(self) -> jax.Array:
        """The array in float32."""
        return _decoded(self)

    def encode(self, x: jax.Array) -> "QuantizedMean":
        """`x` in the same blocks, with the next seed."""
        return QuantizedMean(*_encoded(self, x))


class PackedMean(NamedTuple):
    """A signed array in 4 bits, `sign(code) * (code / 7)^2 * scale`; two halves of a block share bytes."""

    codes: jax.Array
    scales: jax.Array
    seed: Any = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        blocks, packed = self.blocks, self.codes.shape
        return (*packed[: blocks.axis], 2 * packed[blocks.axis], *packed[blocks.axis + 1 :])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded array."""
        return _FLOAT32

    @property
    def blocks(self) -> Blocks:
        """The blocks of the array."""
        axis, count, length = blocks_between(self.codes.shape, self.scales.shape)
        return Blocks(axis, count, 2 * length)

    @staticmethod
    def decode_blocks(codes: jax.Array, scales: jax.Array, axis: int) -> jax.Array:
        """Whole blocks along `axis`, times their scales, which have one place there."""
        pairs = codes.astype(jnp.int32)  # a TPU has no arithmetic of bytes
        both = tuple([2 if k == axis else 1 for k in range(pairs.ndim + 1)])
        shift = jax.lax.broadcasted_iota(jnp.int32, both, axis) * np.int32(4)
        halves = (jnp.expand_dims(pairs, axis) >> shift) & np.int32(15)
        spec = spec_of(halves)
        shape = (*pairs.shape[:axis], 2 * pairs.shape[axis], *pairs.shape[axis + 1 :])
        halves = reshaped(halves, shape, spec and (*spec[:axis], *spec[axis + 1 :]))
        return _signed_squares(halves - np.int32(7), 7) * scales

    @staticmethod
    def encode_blocks(x: jax.Array, axis: int, bits: Any) -> tuple[jax.Array, jax.Array]:
        """The codes and scales of whole blocks along `axis`, rounded by random bits, or to nearest."""
        codes, scales = _encoded_mean(x, axis, 7, bits)
        low, high = jnp.split(_integers(codes + np.float32(7)), 2, axis)
        return (low | (high << np.int32(4))).astype(jnp.uint8), scales

    def decode(self) -> jax.Array:
        """The array in float32."""
        return _decoded(self)

    def encode(self, x: jax.Array) -> "PackedMean":
        """`x` in the same blocks, with the next seed."""
        return PackedMean(*_encoded(self, x))


class QuantizedSquare(NamedTuple):
    """An array of numbers >= 0 in 8 bits, `(code / 255)^4 * scale`. A positive number never becomes 0."""

    codes: jax.Array
    scales: jax.Array
    seed: Any = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.codes.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded array."""
        return _FLOAT32

    @property
    def blocks(self) -> Blocks:
        """The blocks of the array."""
        return blocks_between(self.shape, self.scales.shape)

    @staticmethod
    def decode_blocks(codes: jax.Array, scales: jax.Array, axis: int) -> jax.Array:
        """Whole blocks along `axis`, times their scales, which have one place there."""
        # jax 0.8's kernels for a TPU convert no bytes without a sign to float32 at once.
        root = codes.astype(jnp.int32).astype(jnp.float32) * np.float32(1 / 255)
        return (root * root) * (root * root) * scales

    @staticmethod
    def encode_blocks(x: jax.Array, axis: int, bits: Any) -> tuple[jax.Array, jax.Array]:
        """The codes and scales of whole blocks along `axis`, rounded by random bits, or to nearest."""
        return _encoded_square(x, axis, bits)

    def decode(self) -> jax.Array:
        """The array in float32."""
        return _decoded(self)

    def encode(self, x: jax.Array) -> "QuantizedSquare":
        """`x` in the same blocks, with the next seed."""
        return QuantizedSquare(*_encoded(self, x))


Quantized: TypeAlias = QuantizedMean | PackedMean | QuantizedSquare
QUANTIZED = (QuantizedMean, PackedMean, QuantizedSquare)
Coded: TypeAlias = RoundedLeaf | Quantized
_KINDS = (RoundedLeaf, *QUANTIZED)


def is_coded(x: Any) -> bool:
    """Whether a node of a state is a coded leaf."""
    return isinstance(x, _KINDS)


def is_entry(x: Any) -> bool:
    """Whether a node of a tree stands for one leaf of the parameters: an absent or a coded one."""
    return is_absent(x) or is_coded(x)


def decoded(tree: Any) -> Any:
    """A state with float32 arrays in the place of its coded leaves."""
    return jax.tree.map(lambda x: x.decode() if is_coded(x) else x, tree, is_leaf=is_coded)


def coded_like(new: Any, old: Any) -> Any:
    """`new`, coded where the state `old` of its structure has coded leaves."""
    return jax.tree.map(lambda o, n: o.encode(n) if is_coded(o) else n, old, new, is_leaf=is_coded)


def advanced(seed: Any) -> Any:
    """The seed of the next step."""
    return seed if isinstance(seed, tuple) else seed + np.uint32(1)


def rounded(x: jax.Array, dtype: Any, bits: Any) -> jax.Array:
    """The float32 array `x` in a narrower dtype; finite numbers beyond its range become its largest.

    With random bits, a number becomes one of its two neighbors, the nearer one more often, so that sums of
    many roundings have no bias.
    """
    info = jnp.finfo(dtype)
    limit = np.asarray(info.max, np.float32)
    finite = jnp.abs(x) < np.inf
    inside = jnp.where(finite, jnp.clip(x, -limit, limit), x)
    if bits is None:
        return inside.astype(dtype)
    dropped = np.uint32(2 ** (23 - info.nmant) - 1)
    number = jax.lax.bitcast_convert_type(inside, jnp.uint32)
    number = (number + (bits & dropped)) & ~dropped
    moved = jnp.clip(jax.lax.bitcast_convert_type(number, jnp.float32), -limit, limit)
    return jnp.where(finite, moved, x).astype(dtype)


def _decoded(leaf: Quantized) -> jax.Array:
    axis = leaf.blocks.axis
    codes, scales = _stored_blocks(leaf).split(leaf.codes), jnp.expand_dims(leaf.scales, axis + 1)
    return leaf.blocks.join(leaf.decode_blocks(codes, scales, axis + 1), leaf.shape[axis])


def _encoded(leaf: Quantized, x: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    axis = leaf.blocks.axis
    divided = leaf.blocks.split(x.astype(jnp.float32))
    codes, scales = leaf.encode_blocks(divided, axis + 1, _bits(leaf.seed, divided))
    codes = _stored_blocks(leaf).join(codes, leaf.codes.shape[axis])
    scales = scales.squeeze(axis + 1)
    return with_sharding_of(codes, leaf.codes), with_sharding_of(scales, leaf.scales), advanced(leaf.seed)


def _stored_blocks(leaf: Quantized) -> Blocks:
    """The blocks of the codes, which are half as long where two share a byte."""
    return blocks_between(leaf.codes.shape, leaf.scales.shape)


def _signed_squares(codes: jax.Array, largest: int) -> jax.Array:
    root = codes.astype(jnp.float32) * np.float32(1 / largest)
    return root * jnp.abs(root)


def _encoded_mean(x: jax.Array, axis: int, largest: int, bits: Any) -> tuple[jax.Array, jax.Array]:
    """Codes along `axis`, and the largest absolute value of each block, which a code keeps as it is."""
    # The largest of |x| would make XLA write |x| out before it adds up: a third of a step's time on a CPU.
    scales = jnp.abs(jnp.maximum(jnp.max(x, axis, keepdims=True), -jnp.min(x, axis, keepdims=True)))
    root = jnp.sqrt(jnp.abs(x) * _inverse(scales) * np.float32(largest**2))
    below = jnp.floor(root)
    # The number lies between below^2 and (below + 1)^2 = below^2 + gap.
    above = (root - below) * (root + below) > _threshold(bits) * (2 * below + 1)
    code = jnp.where(above & (below < largest), below + 1, below)
    return jnp.where(x < 0, -code, code), scales


def _encoded_square(x: jax.Array, axis: int, bits: Any) -> tuple[jax.Array, jax.Array]:
    """Codes along `axis`, and the largest number of each block, which a code keeps as it is."""
    scales = jnp.max(x, axis, keepdims=True)
    square = jnp.sqrt(x * _inverse(scales) * np.float32(255**4))
    below = jnp.floor(jnp.sqrt(square))
    # The number lies between below^4 and (below + 1)^4 = below^4 + gap. What is added to a product is exact,
    # so that programs which round once and those which round twice have the same codes.
    low, odd = below * below, 2 * below + 1
    above = (square - low) * (square + low) > _threshold(bits) * (odd * (2 * low + odd))
    raised = above & (below < 255) | (below < 1)
    code = jnp.where(x > 0, jnp.where(raised, below + 1, below), 0)
    return _integers(code).astype(jnp.uint8), scales


def _integers(x: jax.Array) -> jax.Array:
    """Integers whose low 8 bits are those of whole float32 numbers, two's complement where negative."""
    # A conversion tests for NaN and the range first: 0.13 ns per number on a CPU, a sixth of an encoding.
    # The last operation must be one of integers. A GPU stored the low bits of the sum by converting it from
    # float32, to 255: LLVM and ptxas (CUDA 12.9 and 13.0) take its register for a number.
    bits = jax.lax.bitcast_convert_type(x + np.float32(1.5 * 2**23 + 2**7), jnp.int32)
    return bits ^ np.int32(2**7)


def _bits(seed: Any, like: jax.Array) -> jax.Array | None:
    """Random bits for each place; None without a seed, where numbers are rounded to nearest."""
    return None if isinstance(seed, tuple) else random_bits(seed, like)


def _threshold(bits: Any) -> jax.Array | np.ndarray:
    """The part of a gap that a number must be beyond to be rounded up."""
    return np.asarray(0.5, np.float32) if bits is None else unit_interval(bits)


def _inverse(scales: jax.Array) -> jax.Array:
    """`1 / scales`, finite for blocks of zeros."""
    return 1 / jnp.maximum(scales, np.float32(2.0**-120))
