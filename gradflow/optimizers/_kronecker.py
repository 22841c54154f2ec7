"""Statistics of a tensor's sides, and the bases in which they are diagonal: for SOAP, Shampoo and kin."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import real_dtype
from gradflow._rules._state import at_least_float32

# For each side of a tensor a symmetric matrix, or None for a side that is left alone.
Factors = tuple[jax.Array | None, ...]

_EXACT = "highest"  # the precision of products whose roundings a decomposition would magnify


def sides(shape: tuple[int, ...], p: Any, max_dim: int, *, value: float, smallest: int = 2) -> Factors:
    """`value * I` for each side of a tensor from `smallest` to `max_dim`; None for the others.

    Vectors have a factor where sides of one have.
    """
    dtype = at_least_float32(real_dtype(p.dtype))
    return tuple(
        value * jnp.eye(n, dtype=dtype) if len(shape) >= smallest and smallest <= n <= max_dim else None
        for n in shape
    )


def to_unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x` with its largest element made one, so that its products stay in range, and that element's size."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    limits = jnp.finfo(largest.dtype)
    largest = jnp.where(largest >= limits.tiny, jnp.minimum(largest, limits.max / 16), 1)
    return x / largest, largest


def limited(g: jax.Array) -> jax.Array:
    """`g`, with a norm beyond 2^60 (2^508 in float64) made that, so that outer products are finite."""
    x, size = to_unit(g)
    largest = jnp.asarray(2.0 ** (508 if g.dtype == jnp.float64 else 60), g.dtype)
    norm = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(x * x)))
    return jnp.where(size * norm > largest, x * (largest / jnp.where(norm > 0, norm, 1)), g)


def rotate(x: jax.Array, bases: Factors, *, back: bool = False) -> jax.Array:
    """A tensor in the bases of its sides, Q_L^T x Q_R for a matrix; with `back` the inverse, Q_L x Q_R^T."""
    if all(basis is None for basis in bases):
        return x
    y, size = to_unit(x)
    y = turn(y, bases, back=back)
    largest = jnp.finfo(y.dtype).max
    return jnp.clip(y * size, -largest, largest)


def turn(x: jax.Array, bases: Factors, *, back: bool = False) -> jax.Array:
    """`rotate` for numbers that are far from the limits of their dtype."""
    if all(basis is None for basis in bases):
        return x
    for basis in bases:
        # The axis goes to the end, so after all of them the axes are where they were.
        x = jnp.moveaxis(x, 0, -1) if basis is None else jnp.tensordot(x, basis, ((0,), (int(back),)))
    return x


def decay_factors(g: jax.Array, factors: Factors, beta: Any, c: Any) -> Factors:
    """`beta * F + c * g g^T` for each side; a gradient whose square is out of range leaves F as it is."""
    return _decayed(factors, [_outer(g, factor, axis) for axis, factor in enumerate(factors)], beta, c)


def decay_whitened_factors(
    g: jax.Array, factors: Factors, bases: Factors, beta: Any, c: Any, eps: Any
) -> Factors:
    """`beta * F + c / d * y y^T` for each side, where y is g whitened along all other sides, of d numbers.

    A side is whitened by its factor's values along its basis, which are one while there is no factor.
    """
    values = [_values(factor, basis) for factor, basis in zip(factors, bases, strict=True)]
    outers: list[jax.Array | None] = []
    for axis, factor in enumerate(factors):
        y = turn(g, tuple(None if i == axis else basis for i, basis in enumerate(bases)))
        for i, value in enumerate(values):
            if value is not None and i != axis:
                y = y * jax.lax.rsqrt(jnp.maximum(value, eps)).reshape(
                    [-1 if k == i else 1 for k in range(g.ndim)]
                )
        outers.append(_outer(y / math.sqrt(g.size / g.shape[axis]), factor, axis))
    return _decayed(factors, outers, beta, c)


def _values(factor: jax.Array | None, basis: jax.Array | None) -> jax.Array | None:
    if factor is None or basis is None:
        return None
    product = jnp.matmul(factor, basis, precision=_EXACT)
    return jnp.where(jnp.trace(factor) > 0, jnp.sum(basis * product, axis=0), 1)


def _outer(g: jax.Array, factor: jax.Array | None, axis: int) -> jax.Array | None:
    return None if factor is None else outer_product(g, axis)


def _decayed(factors: Factors, outers: list[jax.Array | None], beta: Any, c: Any) -> Factors:
    # The sum of the squares is a trace, and no element is larger.
    return tuple(
        None
        if factor is None or outer is None
        else jnp.where(jnp.isfinite(jnp.trace(outer)), beta * factor + c * outer, factor)
        for factor, outer in zip(factors, outers, strict=True)
    )


def outer_product(g: jax.Array, axis: int) -> jax.Array:
    """The products of the slices of `g` along an axis with each other."""
    others = tuple(i for i in range(g.ndim) if i != axis)
    return jnp.tensordot(g, g, (others, others), precision=_EXACT)


def new_basis(basis: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The basis of a factor, in descending order of what it has along it, and the old columns' order in it.

    The identity is not a basis yet: then it is the eigenvectors, else one step of orthogonal iteration.
    """
    factor, _ = to_unit(factor)
    n = basis.shape[0]
    fresh = jnp.all(basis == jnp.eye(n, dtype=basis.dtype))
    return jax.lax.cond(fresh, _eigenvectors, _iterated, basis, factor)


def eigenvectors(basis: jax.Array, factor: jax.Array) -> jax.Array:
    """The eigenvectors of a factor, in descending order of its values; `basis` where it is zero."""
    factor, _ = to_unit(factor)
    return jnp.where(jnp.max(jnp.abs(factor)) > 0, jnp.linalg.eigh(factor)[1][:, ::-1], basis)


def _eigenvectors(basis: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    return eigenvectors(basis, factor), jnp.arange(basis.shape[0], dtype=jnp.int32)


def _iterated(basis: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    product = jnp.matmul(factor, basis, precision=_EXACT)
    # Less to compile than `argsort`, for the same order: 6 ms for each matrix against 8.
    _, order = jax.lax.top_k(jnp.sum(basis * product, axis=0), basis.shape[0])
    return jnp.linalg.qr(product[:, order])[0], order
