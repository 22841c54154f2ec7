"""The rows of a stack, all of which a CPU's XLA takes with one kernel."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._platform import by_platform

# A program with fewer rows saves less than the choice of the rows costs.
_FEWEST = 4


def unstack(stack: jax.Array) -> list[Any]:
    """The rows of an array, or of an array of PRNG keys, as a list.

    Slices at constant places are kernels of their own, 16 ms each to compile for a CPU. Where the places are
    operands one kernel takes all: Kron on 100 matrices compiles in three quarters of the time.
    """
    count = stack.shape[0]
    is_laid_out = bool(jax.typeof(stack).sharding.mesh.explicit_axes)
    is_piece = bool(jax.sharding.get_abstract_mesh().manual_axes)
    if count < _FEWEST or not isinstance(stack, jax.core.Tracer) or is_laid_out or is_piece:
        return list(stack)
    rows: list[Any] = by_platform(stack, cpu=_at_unknown_places, accelerator=list)
    return rows


def _at_unknown_places(stack: jax.Array) -> list[Any]:
    return [row_at(stack, i) for i in unknown_indices(stack.shape[0])]


def row_at(stack: jax.Array, i: jax.Array) -> jax.Array:
    """The row at a place that exists."""
    return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False, allow_negative_indices=False)


def unknown_indices(count: int) -> list[jax.Array]:
    """0, 1, ... as numbers of which XLA does not know that they are constants."""
    unknown = jax.lax.optimization_barrier(jnp.asarray(True))
    zeros, numbers = functools.partial(_integers, [0] * count), functools.partial(_integers, range(count))
    indices: list[jax.Array] = jax.lax.cond(unknown, numbers, zeros)
    return indices


def _integers(values: Any) -> list[jax.Array]:
    return [jnp.asarray(i, jnp.int32) for i in values]
