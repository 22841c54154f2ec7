"""Norms that serve as divisors, from the smallest number to beyond the largest."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._platform import by_platform
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import safe_sqrt
from gradflow._rules._mesh_axes import global_along, global_norm, global_scaled_root

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
    leaves = jax.tree.leaves(updates)
    result: tuple[jax.Array, jax.Array] = by_platform(
        leaves,
        cpu=functools.partial(_two_readings, axes=axes),
        accelerator=functools.partial(_one_reading, axes=axes, beside=beside),
    )
    return result


def _two_readings(leaves: list[jax.Array], axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    square = global_norm(leaves, axes, squared=True)
    power, shift, back = powers(square)

    def again(leaves: list[jax.Array]) -> jax.Array:
        (moved,) = leafwise(shift_rule, (leaves,), shift=shift)
        return safe_sqrt(global_norm(moved, axes, squared=True).astype(square.dtype)) * back

    return jax.lax.cond(is_lost(square), again, lambda _: safe_sqrt(square) * power, leaves), power


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _one_reading(leaves: list[jax.Array], axes: tuple[str, ...], beside: bool) -> tuple[jax.Array, jax.Array]:
    root, factor = global_scaled_root(leaves, axes, beside)
    one = jnp.ones((), root.dtype)
    power = jnp.where(factor > one, one * _DOWN, jnp.where(factor < one, one * _UP, one))
    return root * (factor * power), power


@_one_reading.defjvp
def _one_reading_jvp(axes: tuple[str, ...], beside: bool, primals: Any, tangents: Any) -> Any:
    (leaves,), (dots,) = primals, tangents
    size, power = _one_reading(leaves, axes, beside)
    along = global_along(leaves, dots, size / power, axes)
    return (size, power), (along * power, jnp.zeros_like(power))


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


def shift_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = shift * g, with a factor that XLA takes for this leaf's own.

    One that leaves of one shape share, XLA on CPU would write out in that shape.
    """
    return jax.lax.optimization_barrier((s.shift, jax.lax.stop_gradient(g)))[0] * g


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


def rescale_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = factor * power * g."""
    return rescale(g, s.factor, s.power)
