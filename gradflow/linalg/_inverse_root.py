"""Inverse roots of positive semi-definite matrices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import checked
from gradflow._dtypes import compute_dtype
from gradflow._errors import describe
from gradflow.linalg._arguments import PRECISION, at_least_zero, count, square
from gradflow.linalg._power_iteration import dominant

_NAME = "matrix_inverse_pth_root"


@checked(precision=PRECISION | None)
def matrix_inverse_pth_root(
    matrix: Any,
    p: Any,
    num_iters: Any = 100,
    ridge_epsilon: Any = 1e-6,
    error_tolerance: Any = 1e-6,
    precision: Any = jax.lax.Precision.HIGHEST,
) -> tuple[jax.Array, jax.Array]:
    """Computes `(matrix + r I)^(-1/p)`, `r = ridge_epsilon * largest eigenvalue`, and its error.

        T = ((p + 1) I - M) / p,  X <- X T,  M <- T^p M        keeps X^-p M fixed while M goes to I

    This coupled Newton iteration stops after `num_iters`, at `error = max|M - I| <= error_tolerance`, or
    when the error grows. A large returned error means that the matrix is not positive definite.

    Args:
      matrix: real (n, n), positive semi-definite; its symmetric part is used.
      p: an integer >= 1.
      num_iters: maximum number of iterations, >= 0.
      ridge_epsilon: >= 0. The root of zero is `ridge_epsilon^(-1/p) I`.
      error_tolerance: error at which the iteration stops, >= 0.
      precision: as in `jax.numpy.matmul`.

    Derivatives are those of the exact root, by an eigendecomposition that runs only for derivatives. The
    error has none. Sources: Higham, "Functions of Matrices", SIAM 2008, eq. 7.18; Anil et al., "Scalable
    Second Order Optimization for Deep Learning", 2020, arXiv:2002.09018.
    """
    matrix = square(_NAME, "matrix", matrix)
    num_iters = count(_NAME, "num_iters", num_iters, traced=True)
    dtype = compute_dtype(matrix.dtype)
    ridge = at_least_zero(_NAME, "ridge_epsilon", ridge_epsilon, dtype)
    tolerance = at_least_zero(_NAME, "error_tolerance", error_tolerance, dtype)
    static_p, p = _exponent(p, dtype)
    if matrix.size == 0:
        return matrix, jnp.zeros((), dtype)
    pair: tuple[jax.Array, jax.Array] = _ridged_root(
        static_p, precision, matrix, p, num_iters, ridge, tolerance
    )
    return pair


# A jit of its own, so that calls from outside of jit do not compile the loops again.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _ridged_root(
    static_p: int | None,
    precision: Any,
    matrix: jax.Array,
    p: jax.Array,
    num_iters: Any,
    ridge: jax.Array,
    tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    dtype = tolerance.dtype
    # In units of the largest element, so that norms neither overflow nor underflow.
    a = matrix.astype(dtype)
    s = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    limits = np.finfo(dtype)
    s = jnp.where(s >= limits.tiny, jnp.minimum(s, limits.max / 16), 1)
    a = (a + a.T) / (2 * s)
    product = functools.partial(jnp.matmul, a, precision=precision)
    start = jax.random.uniform(jax.random.key(0), (a.shape[0],), dtype, -1, 1)
    _, v = jax.lax.stop_gradient(dominant(product, start, jnp.int32(100), tolerance))
    # With v held fixed this has the eigenvalue's derivative, v v^T, and no loop to differentiate.
    largest = jnp.vdot(v, product(v), precision=precision)
    largest = jnp.where(largest > 0, largest, 1)
    a = a + ridge * largest * jnp.eye(a.shape[0], dtype=dtype)
    root, error = _inverse_root(static_p, precision, a, p, num_iters, tolerance)
    return (root * s ** (-1 / p)).astype(matrix.dtype), error


def _exponent(p: Any, dtype: Any) -> tuple[int | None, jax.Array]:
    """`p` as a static number if it is concrete, and as an operand."""
    if isinstance(p, int | np.integer) and not isinstance(p, bool):
        if p < 1:
            raise ValueError(f"{_NAME}: argument 'p' must be >= 1; got {p}")
        return int(p), jnp.asarray(p, dtype)
    integer = isinstance(p, jax.Array) and jnp.issubdtype(p.dtype, jnp.integer)
    if not integer or p.ndim != 0:
        raise TypeError(f"{_NAME}: argument 'p' must be an integer; got {describe(p)}")
    return None, p.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _inverse_root(
    static_p: int | None,
    precision: Any,
    a: jax.Array,
    p: jax.Array,
    num_iters: Any,
    tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    identity = jnp.eye(a.shape[0], dtype=a.dtype)
    norm = jnp.sqrt(jnp.sum(a * a))
    # The eigenvalues of M start in (0, (1 + p) / 2], inside the interval of convergence.
    z = (1 + p) / (2 * jnp.where(norm > 0, norm, 1))
    times = functools.partial(jnp.matmul, precision=precision)

    def measured(x: jax.Array, m: jax.Array) -> tuple[jax.Array, ...]:
        gap = m - identity
        return x, jnp.max(jnp.abs(gap)), jnp.sqrt(jnp.sum(gap * gap))

    def unfinished(carry: Any) -> Any:
        i, _, (_, error, norm), (_, _, last_norm) = carry
        # Every eigenvalue of M approaches one with each step, so in exact arithmetic the norm
        # falls: slowly at first, when rounding may hide it, and near the end by squaring itself.
        falling = norm < jnp.where(norm > 0.1, 1.2, 1) * last_norm
        return (i < num_iters) & (error > tolerance) & falling

    def step(carry: Any) -> Any:
        i, m, new, _ = carry
        t = ((p + 1) * identity - m) / p
        m = times(_power(t, static_p, p, times), m)
        return i + 1, m, measured(times(new[0], t), m), new

    m = z * a
    new = measured(z ** (1 / p) * identity, m)
    last = (new[0], jnp.full_like(new[1], jnp.inf), jnp.full_like(new[2], jnp.inf))
    end: Any = jax.lax.while_loop(unfinished, step, (jnp.int32(0), m, new, last))
    _, _, (x, error, norm), (last_x, last_error, last_norm) = end
    better: jax.Array = norm <= last_norm
    return jnp.where(better, x, last_x), jnp.where(better, error, last_error)


@_inverse_root.defjvp
def _inverse_root_jvp(static_p: int | None, precision: Any, primals: Any, tangents: Any) -> Any:
    root, error = _inverse_root(static_p, precision, *primals)
    a, p = primals[:2]
    w, v = jnp.linalg.eigh(a, symmetrize_input=False)
    w = jnp.maximum(w, np.finfo(w.dtype).eps * jnp.max(jnp.abs(w)))
    # The divided differences of w^(-1/p) (Daleckii and Krein), without cancellation.
    high, low = jnp.maximum(w[:, None], w[None, :]), jnp.minimum(w[:, None], w[None, :])
    r = jnp.log(low / high)
    apart = r < 0
    safe = jnp.where(apart, r, -1)
    ratio = jnp.where(apart, jnp.expm1(-safe / p) / jnp.expm1(safe), -1 / p)
    slope = high ** (-1 / p - 1) * ratio
    times = functools.partial(jnp.matmul, precision=precision)
    inner = times(times(v.T, tangents[0]), v)
    return (root, error), (times(times(v, slope * inner), v.T), jnp.zeros_like(error))


def _power(t: jax.Array, static_p: int | None, p: jax.Array, times: Any) -> jax.Array:
    """`t^p` by repeated squaring."""
    if static_p is not None:
        result = None
        while static_p:
            if static_p & 1:
                result = t if result is None else times(result, t)
            static_p >>= 1
            t = times(t, t) if static_p else t
        assert result is not None
        return result

    def step(carry: Any) -> Any:
        result, t, left = carry
        result = jnp.where(left % 2 == 1, times(result, t), result)
        return result, times(t, t), left // 2

    identity = jnp.eye(t.shape[0], dtype=t.dtype)
    start = (identity, t, p.astype(jnp.int32))
    power: jax.Array = jax.lax.while_loop(lambda carry: carry[2] > 0, step, start)[0]
    return power
