"""Statistics of a tensor's sides, and the bases in which they are diagonal: for SOAP, Shampoo and kin."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import real_dtype
from gradflow._rules._state import at_least_float32
from gradflow.linalg import refresh

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
    for basis in bases:
        # The axis goes to the end, so after all of them the axes are where they were.
        y = jnp.moveaxis(y, 0, -1) if basis is None else jnp.tensordot(y, basis, ((0,), (int(back),)))
    largest = jnp.finfo(y.dtype).max
    return jnp.clip(y * size, -largest, largest)


def decay_factors(g: jax.Array, factors: Factors, beta: Any, c: Any) -> Factors:
    """`beta * F + c * g g^T` for each side; a gradient whose square is out of range leaves F as it is."""
    return tuple(
        None if factor is None else _decayed(factor, outer_product(g, axis), beta, c)
        for axis, factor in enumerate(factors)
    )


def outer_product(g: jax.Array, axis: int) -> jax.Array:
    """The products of the slices of `g` along an axis with each other."""
    others = tuple(i for i in range(g.ndim) if i != axis)
    return jnp.tensordot(g, g, (others, others), precision=_EXACT)


def _decayed(factor: jax.Array, outer: jax.Array, beta: Any, c: Any) -> jax.Array:
    new = beta * factor + c * outer
    return jnp.where(jnp.all(jnp.isfinite(new)), new, factor)


def refreshed_bases(
    due: jax.Array, first: jax.Array, olds: Factors, news: Factors, bases: Factors
) -> tuple[Factors, tuple[jax.Array | None, ...]]:
    """The bases of new statistics where due, and the old columns' order in them.

    The first time, and where the old statistics are zero, a basis is the eigenvectors; else it is one step of
    orthogonal iteration from the old one.
    """
    pairs: list[tuple[jax.Array | None, jax.Array | None]] = []
    for old, new, basis in zip(olds, news, bases, strict=True):
        if old is None or new is None or basis is None:
            pairs.append((None, None))
            continue
        fresh = first | (jnp.max(jnp.abs(old)) == 0)
        order = jnp.arange(basis.shape[0], dtype=jnp.int32)
        pairs.append(refresh(due, _new_basis, (basis, order), new, fresh))
    return tuple(basis for basis, _ in pairs), tuple(order for _, order in pairs)


def _new_basis(
    old: tuple[jax.Array, jax.Array], factor: jax.Array, fresh: jax.Array
) -> tuple[jax.Array, jax.Array]:
    factor, _ = to_unit(factor)
    return jax.lax.cond(fresh, _eigenvectors, _iterated, old, factor)


def _eigenvectors(old: tuple[jax.Array, jax.Array], factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.linalg.eigh(factor)[1][:, ::-1], old[1]


def _iterated(old: tuple[jax.Array, jax.Array], factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    basis, _ = old
    product = jnp.matmul(factor, basis, precision=_EXACT)
    order = jnp.argsort(-jnp.sum(basis * product, axis=0)).astype(jnp.int32)
    return jnp.linalg.qr(product[:, order])[0], order
