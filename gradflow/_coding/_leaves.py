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
from gradflow._coding._random import random_bits, uniform
from gradflow._shardings import with_sharding_of
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
        codes = rounded(x.astype(jnp.float32), self.codes.dtype, self.seed)
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

    def decode(self) -> jax.Array:
        """The array in float32."""
        blocks = blocks_between(self.shape, self.scales.shape)
        return _join(blocks, _signed_squares(blocks.split(self.codes), 127), self.scales, self.shape)

    def encode(self, x: jax.Array) -> "QuantizedMean":
        """`x` in the same blocks, with the next seed."""
        blocks = blocks_between(self.shape, self.scales.shape)
        codes, scales = _encoded_mean(blocks.split(x.astype(jnp.float32)), blocks.axis + 1, 127, self.seed)
        codes = blocks.join(codes, self.shape[blocks.axis])
        return QuantizedMean(
            with_sharding_of(codes, self.codes), with_sharding_of(scales, self.scales), advanced(self.seed)
        )


class PackedMean(NamedTuple):
    """A signed array in 4 bits, `sign(code) * (code / 7)^2 * scale`; two halves of a block share bytes."""

    codes: jax.Array
    scales: jax.Array
    seed: Any = ()

    @property
    def _blocks(self) -> Blocks:
        axis, count, length = blocks_between(self.codes.shape, self.scales.shape)
        return Blocks(axis, count, 2 * length)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        blocks, packed = self._blocks, self.codes.shape
        return (*packed[: blocks.axis], 2 * packed[blocks.axis], *packed[blocks.axis + 1 :])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the decoded array."""
        return _FLOAT32

    def decode(self) -> jax.Array:
        """The array in float32."""
        blocks = self._blocks
        pairs = blocks._replace(length=blocks.length // 2).split(self.codes)
        low, high = pairs & np.uint8(15), pairs >> np.uint8(4)
        codes = jnp.concatenate([low, high], blocks.axis + 1).astype(jnp.int8) - np.int8(7)
        return _join(blocks, _signed_squares(codes, 7), self.scales, self.shape)

    def encode(self, x: jax.Array) -> "PackedMean":
        """`x` in the same blocks, with the next seed."""
        blocks = self._blocks
        codes, scales = _encoded_mean(blocks.split(x.astype(jnp.float32)), blocks.axis + 1, 7, self.seed)
        low, high = jnp.split((codes + np.int8(7)).astype(jnp.uint8), 2, blocks.axis + 1)
        pairs = blocks.join(low | (high << np.uint8(4)), self.codes.shape[blocks.axis])
        return PackedMean(
            with_sharding_of(pairs, self.codes), with_sharding_of(scales, self.scales), advanced(self.seed)
        )


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

    def decode(self) -> jax.Array:
        """The array in float32."""
        blocks = blocks_between(self.shape, self.scales.shape)
        root = blocks.split(self.codes).astype(jnp.float32) * np.float32(1 / 255)
        return _join(blocks, (root * root) * (root * root), self.scales, self.shape)

    def encode(self, x: jax.Array) -> "QuantizedSquare":
        """`x` in the same blocks, with the next seed."""
        blocks = blocks_between(self.shape, self.scales.shape)
        codes, scales = _encoded_square(blocks.split(x.astype(jnp.float32)), blocks.axis + 1, self.seed)
        codes = blocks.join(codes, self.shape[blocks.axis])
        return QuantizedSquare(
            with_sharding_of(codes, self.codes), with_sharding_of(scales, self.scales), advanced(self.seed)
        )


Coded: TypeAlias = RoundedLeaf | QuantizedMean | PackedMean | QuantizedSquare
_KINDS = (RoundedLeaf, QuantizedMean, PackedMean, QuantizedSquare)


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


def rounded(x: jax.Array, dtype: Any, seed: Any) -> jax.Array:
    """The float32 array `x` in a narrower dtype; finite numbers beyond its range become its largest.

    With a seed, a number becomes one of its two neighbors, the nearer one more often, so that sums of many
    roundings have no bias.
    """
    info = jnp.finfo(dtype)
    limit = np.asarray(info.max, np.float32)
    finite = jnp.abs(x) < np.inf
    inside = jnp.where(finite, jnp.clip(x, -limit, limit), x)
    if isinstance(seed, tuple):
        return inside.astype(dtype)
    dropped = np.uint32(2 ** (23 - info.nmant) - 1)
    bits = jax.lax.bitcast_convert_type(inside, jnp.uint32)
    bits = (bits + (random_bits(seed, x) & dropped)) & ~dropped
    moved = jnp.clip(jax.lax.bitcast_convert_type(bits, jnp.float32), -limit, limit)
    return jnp.where(finite, moved, x).astype(dtype)


def _join(blocks: Blocks, x: jax.Array, scales: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The blocks `x` times their scales, as one array of `shape`."""
    return blocks.join(x * jnp.expand_dims(scales, blocks.axis + 1), shape[blocks.axis])


def _signed_squares(codes: jax.Array, largest: int) -> jax.Array:
    root = codes.astype(jnp.float32) * np.float32(1 / largest)
    return root * jnp.abs(root)


def _encoded_mean(x: jax.Array, axis: int, largest: int, seed: Any) -> tuple[jax.Array, jax.Array]:
    """Codes along `axis`, and the largest absolute value of each block, which a code keeps as it is."""
    size = jnp.abs(x)
    scales = jnp.max(size, axis, keepdims=True)
    root = jnp.sqrt(size * _inverse(scales)) * np.float32(largest)
    below = jnp.floor(root)
    # The number lies between below^2 and (below + 1)^2 = below^2 + gap.
    above = (root - below) * (root + below) > _threshold(seed, x) * (2 * below + 1)
    code = jnp.minimum(below + above.astype(jnp.float32), np.float32(largest))
    return (jnp.sign(x) * code).astype(jnp.int8), scales.squeeze(axis)


def _encoded_square(x: jax.Array, axis: int, seed: Any) -> tuple[jax.Array, jax.Array]:
    """Codes along `axis`, and the largest number of each block, which a code keeps as it is."""
    scales = jnp.max(x, axis, keepdims=True)
    root = jnp.sqrt(jnp.sqrt(jnp.maximum(x, 0) * _inverse(scales))) * np.float32(255)
    below = jnp.floor(root)
    low, high = below * below, (below + 1) * (below + 1)
    beyond = (root - below) * (root + below) * (root * root + low)  # root^4 - below^4
    above = beyond > _threshold(seed, x) * (high - low) * (high + low)
    code = jnp.minimum(below + above.astype(jnp.float32), np.float32(255))
    return jnp.where(x > 0, jnp.maximum(code, 1), 0).astype(jnp.uint8), scales.squeeze(axis)


def _threshold(seed: Any, like: jax.Array) -> jax.Array | np.ndarray:
    """The part of a gap that a number must be beyond to be rounded up."""
    return np.asarray(0.5, np.float32) if isinstance(seed, tuple) else uniform(seed, like)


def _inverse(scales: jax.Array) -> jax.Array:
    """`1 / scales`, finite for blocks of zeros."""
    return 1 / jnp.maximum(scales, np.float32(2.0**-120))
