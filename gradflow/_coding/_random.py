"""Random numbers from a seed and a place: they cost less than the rounding that uses them."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._shardings import with_sharding_of


def uniform(seed: jax.Array, like: jax.Array) -> jax.Array:
    """Numbers in [0, 1), one for each place of an array."""
    return unit_interval(random_bits(seed, like))


def unit_interval(bits: jax.Array) -> jax.Array:
    """Random bits as numbers in [0, 1)."""
    # All of 24 bits are positive in int32, too; a TPU's kernels convert no unsigned numbers.
    return (bits >> np.uint32(8)).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)


def random_bits(seed: jax.Array, like: jax.Array) -> jax.Array:
    """32 bits for each place: a hash of the place in row-major order and of the seed.

    A hash takes 0.3 ns per number on one core, threefry 9 ns. A device that holds a part of an array hashes
    the places of the whole, so a mesh draws the numbers of one device.
    """
    shape = like.shape
    places = jnp.zeros((), jnp.uint32)
    for axis in range(len(shape)):
        stride = np.asarray(math.prod(shape[axis + 1 :]) % 2**32, np.uint32)
        places = places + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return mixed(with_sharding_of(places, like) + mixed(seed))


def mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit numbers that changes half of the bits when one bit of `x` changes."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
