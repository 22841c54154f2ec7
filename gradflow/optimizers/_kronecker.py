"""Statistics of a tensor's sides, and the bases in which they are diagonal: for SOAP, Shampoo and kin."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import real_dtype
from gradflow._kernel_hints._order import in_turn
from gradflow._kernel_hints._placement import row_major
from gradflow._platform import by_platform
from gradflow._rules._math import bounded_if_finite, largest_bounded, size_root
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
    size = _unit(x)
    return x / size, size


def _unit(x: jax.Array) -> jax.Array:
    """The size of the largest element; one for zeros."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    limits = jnp.finfo(largest.dtype)
    return jnp.where(largest >= limits.tiny, jnp.minimum(largest, limits.max / 16), 1)


def limited(g: jax.Array, factors: Factors | None = None) -> tuple[jax.Array, jax.Array]:
    """`g` with a norm of at most 2^60 (2^508 in float64), so that its square is finite; whether `g` is.

    Where all `factors` are None no number is added to another, and those beside an outlier stay as they are.
    """
    if factors is not None and all(factor is None for factor in factors):
        return bounded_if_finite(g), jnp.ones((), bool)
    most = largest_bounded(g.dtype) / size_root(max(g.size, 1))
    # A maximum of thousands of numbers leaves a NaN out on a CPU.
    size = jnp.where(jnp.isnan(g), jnp.inf, jnp.abs(g))
    largest = jax.lax.stop_gradient(jnp.max(size, initial=0))
    return g * jnp.where(largest > most, most / largest, 1), jnp.isfinite(largest)


def rotate(x: jax.Array, bases: Factors) -> jax.Array:
    """A tensor in the bases of its sides, Q_L^T x Q_R for a matrix."""
    if all(basis is None for basis in bases):
        return x
    y, size = to_unit(x)
    y = turn(y, bases)
    largest = jnp.finfo(y.dtype).max
    return jnp.clip(y * size, -largest, largest)


def turn(x: jax.Array, bases: Factors, *, back: bool = False) -> jax.Array:
    """`rotate` for numbers far from the limits of their dtype; with `back` the inverse, Q_L x Q_R^T."""
    if all(basis is None for basis in bases):
        return x
    for basis in bases:
        # The axis goes to the end, so after all of them the axes are where they were.
        x = jnp.moveaxis(x, 0, -1) if basis is None else jnp.tensordot(x, basis, ((0,), (int(back),)))
    return x


def decay_factors(g: jax.Array, is_finite: jax.Array, factors: Factors, beta: Any, c: Any) -> Factors:
    """`beta * F + c * g g^T` for each side, of a gradient that is `limited`; F where it is not finite."""
    outers = [_outer(g, factor, axis) for axis, factor in enumerate(factors)]
    return _decayed(factors, outers, [is_finite] * len(factors), beta, c)


def after_factors(g: jax.Array, factors: Factors) -> tuple[jax.Array, Factors]:
    """Both; a GPU uses `g` for other things when the factors are written, and need not keep it for them."""
    written, (g,) = in_turn([factor for factor in factors if factor is not None], [g])
    order = iter(written)
    return g, tuple(None if factor is None else next(order) for factor in factors)


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
        outers.append(_outer(y / size_root(g.size / g.shape[axis]), factor, axis))
    # The sum of the squares is a trace, and no element is larger.
    finite = [None if outer is None else jnp.isfinite(jnp.trace(outer)) for outer in outers]
    return _decayed(factors, outers, finite, beta, c)


def _values(factor: jax.Array | None, basis: jax.Array | None) -> jax.Array | None:
    if factor is None or basis is None:
        return None
    product = jnp.matmul(factor, basis, precision=_EXACT)
    return jnp.where(jnp.trace(factor) > 0, jnp.sum(basis * product, axis=0), 1)


def _outer(g: jax.Array, factor: jax.Array | None, axis: int) -> jax.Array | None:
    return None if factor is None else outer_product(g, axis)


def _decayed(
    factors: Factors, outers: list[jax.Array | None], finite: Sequence[jax.Array | None], beta: Any, c: Any
) -> Factors:
    return tuple(
        None
        if factor is None or outer is None or is_finite is None
        else jnp.where(is_finite, beta * factor + c * outer, factor)
        for factor, outer, is_finite in zip(factors, outers, finite, strict=True)
    )


def outer_product(g: jax.Array, axis: int) -> jax.Array:
    """The products of the slices of `g` along an axis with each other."""
    others = tuple(i for i in range(g.ndim) if i != axis)
    return jnp.tensordot(g, g, (others, others), precision=_EXACT)


def new_basis(basis: jax.Array, factor: jax.Array, after: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The basis of a factor, in descending order of what it has along it, and the old columns' order in it.

    The identity is not a basis yet: then it is the eigenvectors, else one step of orthogonal iteration. A
    basis whose new numbers are not finite is kept. `after` is zero: by it `call_in_loops` orders them.
    """
    n = basis.shape[0]
    in_place = jnp.arange(n, dtype=jnp.int32)
    fresh = jnp.sum(jnp.abs(basis - jnp.eye(n, dtype=basis.dtype))) <= after
    # A branch that divides by the unit itself has done with that matrix when the next one is written. What
    # branches return is the transpose: LAPACK writes columns, and a GPU would keep the old basis so, too. On
    # a CPU it is flat, or XLA would transpose it twice more: sides of 64 take a third longer to compile.
    operands = (fresh, basis, factor, _unit(factor), in_place)
    new, order = by_platform(*operands, cpu=_new_from_flat, accelerator=_new_from_rows)
    is_finite = jnp.isfinite(jnp.sum(jnp.abs(new)))
    return jnp.where(is_finite, row_major(new.T), basis), jnp.where(is_finite, order, in_place)


def _new_from_flat(fresh: jax.Array, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    new, order = jax.lax.cond(fresh, _flat_eigenvectors, _flat_iterated, *operands)
    return new.reshape(operands[0].shape), order


def _new_from_rows(fresh: jax.Array, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    new, order = jax.lax.cond(fresh, _eigenvectors, _iterated, *operands)
    return new, order


def eigenvectors(basis: jax.Array, factor: jax.Array) -> jax.Array:
    """The eigenvectors of a factor, in descending order of its values; `basis` where there are none.

    There are none of a factor that is zero or not finite.
    """
    values, vectors = _decomposed(factor, _unit(factor))
    new = jnp.where(values[-1] > 0, vectors[:, ::-1], basis)
    return jnp.where(jnp.isfinite(jnp.sum(jnp.abs(new))), new, basis)


def _decomposed(factor: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    # LAPACK reads columns, and the columns of the transpose lie as the rows do.
    values, vectors = jnp.linalg.eigh(factor.T / unit, symmetrize_input=False)
    return values, vectors


def _flat_eigenvectors(
    basis: jax.Array, factor: jax.Array, unit: jax.Array, in_place: jax.Array
) -> tuple[jax.Array, jax.Array]:
    values, vectors = _decomposed(factor, unit)
    # The old basis is the identity, its own transpose.
    return jnp.where(values[-1] > 0, vectors.T[::-1], basis).ravel(), in_place


def _flat_iterated(
    basis: jax.Array, factor: jax.Array, unit: jax.Array, _: jax.Array
) -> tuple[jax.Array, jax.Array]:
    columns = jnp.matmul(factor / unit, basis, precision=_EXACT)
    # Less to compile than `argsort`, for the same order: 6 ms for each matrix against 8.
    _, order = jax.lax.top_k(jnp.sum(basis * columns, axis=0), basis.shape[0])
    return jnp.linalg.qr(jnp.take(columns.T, order, axis=0, mode="clip").T)[0].T.ravel(), order


def _eigenvectors(
    basis: jax.Array, factor: jax.Array, unit: jax.Array, in_place: jax.Array
) -> tuple[jax.Array, jax.Array]:
    values, vectors = _decomposed(factor, unit)
    return jnp.where(values[-1] > 0, vectors[:, ::-1], basis).T, in_place


def _iterated(
    basis: jax.Array, factor: jax.Array, unit: jax.Array, _: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows = jnp.matmul(basis.T, factor / unit, precision=_EXACT)
    _, order = jax.lax.top_k(jnp.sum(basis.T * rows, axis=1), basis.shape[0])
    return jnp.linalg.qr(jnp.take(rows, order, axis=0, mode="clip").T)[0].T, order
