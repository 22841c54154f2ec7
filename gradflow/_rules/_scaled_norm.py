"""Norms that serve as divisors, from the smallest number to beyond the largest."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._rules._leafwise import Scalars
from gradflow._rules._math import safe_sqrt
from gradflow._rules._mesh_axes import global_scaled_root
from gradflow._rules._traced_once import traced_once

# Powers of two. The inverse of a norm outside of [SMALL, LARGE], or that inverse's derivative, could leave
# the range of float32. Below SMALL squares vanish, too; above 2^64 they overflow.
_SMALL, _LARGE = 2.0**-30, 2.0**48
_UP, _DOWN = 2.0**64, 2.0**-64


@functools.partial(jax.jit, static_argnames=("axes", "beside"))
def scaled_norm(
    updates: Any, axes: tuple[str, ...] = (), beside: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`(size, power)`: the norm is `size / power`, with a power of two that keeps `size` in range.

    Many numbers near the largest one have a norm beyond it, so code that divides by the norm multiplies by
    `power` first. The updates are read a second time only if squares vanished or overflowed. The
    derivative at zero is zero. `beside` as in `banded_square_sums`.
    """
    root, factor = global_scaled_root(updates, axes, beside)
    one = jnp.ones((), root.dtype)
    power = jnp.where(factor > one, one * _DOWN, jnp.where(factor < one, one * _UP, one))
    return root * (factor * power), power


def scaled_norms(
    squares: Callable[[Any], jax.Array], multiply: Callable[[jax.Array, Any], Any], data: Any
) -> tuple[jax.Array, jax.Array]:
    """`scaled_norm` of many vectors at once.

    `squares(data)` has the sum of squares of each, `multiply(factors, data)` multiplies each by a number.
    """
    square = squares(data)
    power, shift, back = powers(square)

    def again(data: Any) -> jax.Array:
        return safe_sqrt(squares(multiply(jax.lax.stop_gradient(shift), data))) * back

    # One branch for all of them: under vmap both branches would be computed.
    return jax.lax.cond(jnp.any(is_lost(square)), again, lambda _: safe_sqrt(square) * power, data), power


def is_lost(square: jax.Array) -> jax.Array:
    """Whether digits of this sum of squares vanished, or it overflowed."""
    return (square < _SMALL**2) | (square == np.inf)


@jax.jit
def powers(square: jax.Array) -> tuple[jax.Array, ...]:
    """For `size`; and for a second reading: what to multiply by before squaring, and afterwards."""
    small, large = square < _SMALL**2, square > _LARGE**2
    # Before squaring the largest numbers are brought to the quarter of their exponent.
    far = np.finfo(square.dtype).maxexp * 3 // 4

    def choose(if_small: float, if_large: float) -> jax.Array:
        values = (np.asarray(x, square.dtype) for x in (if_small, if_large, 1.0))
        low, high, between = (jnp.asarray(x) for x in values)
        return jnp.where(small, low, jnp.where(large, high, between))

    return choose(_UP, _DOWN), choose(_UP, 2.0**-far), choose(1.0, _DOWN * 2.0**far)


def clip_scalars(size: jax.Array, power: jax.Array, limit: jax.Array) -> Scalars:
    """`factor * (power * g)` has norm `limit` where that of `g` is larger, else it is `g`."""
    clipped = size > limit * power
    return {"factor": jnp.where(clipped, limit / jnp.where(clipped, size, 1), 1 / power)}


def rescale(g: jax.Array, factor: jax.Array, power: jax.Array) -> jax.Array:
    """`factor * power * g`, each product in range."""
    return factor * (power * g)


@traced_once
def rescale_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = factor * power * g."""
    return rescale(g, s.factor, s.power)
