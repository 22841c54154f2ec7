"""Blocks along one axis of an array. They never cross rows, so that codes are sharded like the parameter."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._shardings import reshaped, spec_of


class Blocks(NamedTuple):
    """The division of an axis into `pieces` blocks of `length` places; the last may be shorter."""

    axis: int
    pieces: int
    length: int

    def split(self, x: jax.Array) -> jax.Array:
        """`x` with its axis as two, `(pieces, length)`; missing places are zeros."""
        missing = self.pieces * self.length - x.shape[self.axis]
        if missing:
            x = jnp.pad(x, [(0, missing if axis == self.axis else 0) for axis in range(x.ndim)])
        spec = spec_of(x)
        if spec is not None and spec[self.axis] is not None:
            if not _divides(x, spec[self.axis], self.pieces):
                x = reshaped(x, x.shape, (*spec[: self.axis], None, *spec[self.axis + 1 :]))
            spec = spec_of(x)
        shape = (*x.shape[: self.axis], self.pieces, self.length, *x.shape[self.axis + 1 :])
        return reshaped(x, shape, spec and (*spec[: self.axis + 1], None, *spec[self.axis + 1 :]))

    def join(self, x: jax.Array, size: int) -> jax.Array:
        """The inverse of `split` for an axis of `size` places."""
        spec = spec_of(x)
        shape = (
            *x.shape[: self.axis],
            math.prod(x.shape[self.axis : self.axis + 2]),
            *x.shape[self.axis + 2 :],
        )
        whole = reshaped(x, shape, spec and (*spec[: self.axis + 1], *spec[self.axis + 2 :]))
        return whole if shape[self.axis] == size else jax.lax.slice_in_dim(whole, 0, size, axis=self.axis)


def _divides(x: jax.Array, names: Any, pieces: int) -> bool:
    """Whether each device along these axes of a mesh has whole pieces."""
    sizes: Any = jax.typeof(x).sharding.mesh.shape
    names = names if isinstance(names, tuple) else (names,)
    return pieces % math.prod(sizes[name] for name in names) == 0


def blocks_of(shape: tuple[int, ...], block: int) -> Blocks:
    """Blocks of at most `block` places along the axis that needs fewest; the second-last of equals.

    Blocks down the second-last axis need no other layout on a TPU, whose registers hold pieces of rows.
    """
    axes = range(len(shape) - 1, max(len(shape) - 3, -1), -1)
    return min(
        (_along(shape, axis, block) for axis in axes), key=lambda b: (b.pieces / shape[b.axis], b.axis)
    )


def _along(shape: tuple[int, ...], axis: int, block: int) -> Blocks:
    count = -(-shape[axis] // block)
    return Blocks(axis, count, -(-shape[axis] // count))


def even_blocks_of(shape: tuple[int, ...], block: int) -> Blocks | None:
    """Like `blocks_of`, of an even length of at least 4 that divides its axis; None if there are none."""
    found = []
    for axis in range(len(shape) - 1, max(len(shape) - 3, -1), -1):
        size = shape[axis]
        fitting = [n for n in range(min(block, size), 3, -1) if n % 2 == 0 and size % n == 0]
        if fitting and fitting[0] >= min(block, size) / 2:
            found.append(Blocks(axis, size // fitting[0], fitting[0]))
    return min(found, key=lambda b: (b.pieces / shape[b.axis], b.axis), default=None)


def blocks_between(shape: tuple[int, ...], scales: tuple[int, ...]) -> Blocks:
    """The blocks of an array of `shape` whose scales have the shape `scales`."""
    differing = [axis for axis in range(len(shape)) if shape[axis] != scales[axis]]
    axis = differing[0] if differing else len(shape) - 1  # blocks of one place lie along any axis
    return Blocks(axis, scales[axis], -(-shape[axis] // scales[axis]))
