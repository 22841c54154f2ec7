"""Orthogonalization by matrix products: odd polynomials that move singular values toward one."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, real_dtype
from gradflow._errors import describe
from gradflow.linalg._arguments import array, at_least_zero, count
from gradflow.tree._leaves import is_array_like

Triple = tuple[Any, Any, Any]

NEWTON_SCHULZ_TABLES: Mapping[str, tuple[tuple[float, float, float], ...]] = MappingProxyType(
    {
        # Steepest at zero, at the price of leaving singular values in about [0.68, 1.13]:
        # Jordan et al., "Muon", 2024, kellerjordan.github.io/posts/muon.
        "keller": ((3.4445, -4.7750, 2.0315),) * 5,
        # The best polynomial for the interval that remains at each step: Amsel, Persson, Musco,
        # Gower, "The Polar Express", 2025, arXiv 2505.16932; its last row repeats.
        "polar_express": (
            (8.15655, -22.48329, 15.87877),
            (4.04293, -2.80892, 0.50002),
            (3.89167, -2.77248, 0.50606),
            (3.28575, -2.36813, 0.46449),
            (2.34654, -1.70978, 0.42324),
        ),
        # Fast growth first, then two steps that converge: DeepSeek-V4.
        "keller_then_exact": ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2,
        # These converge to the polar factor itself, more slowly for smaller singular values.
        "cubic": ((1.5, -0.5, 0.0),) * 20,
        "quintic": ((1.875, -1.25, 0.375),) * 12,
    }
)

# The interval of a table may end at one, which rounding must not exceed.
_SAFETY = {"polar_express": 1.02}


def newton_schulz(
    x: Any,
    coefficients: Any = "keller",
    steps: int | None = None,
    *,
    eps: Any = 1e-7,
    safety: Any = None,
    dtype: Any = None,
    precision: Any = None,
) -> jax.Array:
    """Computes the orthogonal polar factor of `x = U S V^T`, near `U V^T`, by matrix products.

        x <- x / (safety * |x|_F + eps)
        x <- a x + (b A + c A^2) x,  A = x x^T on the smaller side

    Args:
      x: (..., m, n), real or complex, a batch of matrices; zero and zero-size matrices give zeros.
      coefficients: a name in `NEWTON_SCHULZ_TABLES`, one triple (a, b, c), or one per step, numbers or an
        array. A table shorter than `steps` repeats its last row. `c = 0` saves a product.
      steps: number of steps, >= 0; by default the length of the table, 5 for one triple.
      eps: >= 0, by default Jordan's. It shrinks matrices whose norm is not much larger.
      safety: >= 0; by default 1.02 for "polar_express", otherwise 1.
      dtype: of the products; by default float32 or wider. The norm is never computed in less.
      precision: as in `jax.numpy.matmul`.

    Returns an array of the shape and dtype of `x`.
    Source: Björck & Bowie, "An iterative algorithm for computing the best estimate of an orthogonal
    matrix", SIAM J. Numer. Anal. 8(2), 1971; the comments of the tables give theirs.
    """
    name = "newton_schulz"
    matrix = array(name, "x", x, "(..., m, n)", complex_too=True)
    rows = _rows(coefficients, steps)
    wide = compute_dtype(matrix.dtype)
    if safety is None:
        safety = _SAFETY.get(coefficients, 1) if isinstance(coefficients, str) else 1
    margin = at_least_zero(name, "safety", safety, real_dtype(wide))
    floor = at_least_zero(name, "eps", eps, real_dtype(wide))
    low = wide if dtype is None else np.dtype(dtype)
    if not is_inexact(low) or is_complex(low) != is_complex(wide):
        kind = "complex" if is_complex(wide) else "real"
        raise TypeError(f"{name}: argument 'dtype' must be a {kind} floating-point type; got {dtype}")
    if matrix.size == 0:
        return matrix
    # Operands, so that a table may be swept or learned; only a zero is static.
    numbers = [[jnp.asarray(v, dtype=real_dtype(wide)) for v in row] for row in rows]
    cubic = tuple(isinstance(c, int | float) and c == 0 for _, _, c in rows)
    y: jax.Array = _orthogonalize(matrix, numbers, margin, floor, cubic=cubic, low=low, precision=precision)
    return y


def _rows(coefficients: Any, steps: int | None) -> list[Triple]:
    """One triple per step."""
    name = "newton_schulz"
    if steps is not None:
        steps = count(name, "steps", steps)
    if isinstance(coefficients, str):
        if coefficients not in NEWTON_SCHULZ_TABLES:
            names = ", ".join(NEWTON_SCHULZ_TABLES)
            raise ValueError(f"{name}: argument 'coefficients' must be one of {names}; got {coefficients!r}")
        table: list[Any] = list(NEWTON_SCHULZ_TABLES[coefficients])
    else:
        if _is_triple(coefficients):
            table = [coefficients] * (5 if steps is None else steps)
        elif isinstance(coefficients, Sequence) or np.ndim(coefficients) == 2:
            table = list(coefficients)
        else:
            table = []
        if (not table and steps != 0) or not all(map(_is_triple, table)):
            raise ValueError(
                f"{name}: argument 'coefficients' must be a name, three numbers, or rows of three"
                f" numbers; got {describe(coefficients)}"
            )
    if steps is None or not table:
        return [tuple(row) for row in table]
    return [tuple(table[min(i, len(table) - 1)]) for i in range(steps)]


def _is_triple(row: Any) -> bool:
    if isinstance(row, np.ndarray | jax.Array):
        return row.shape == (3,)
    scalars = isinstance(row, Sequence) and all(is_array_like(v) and np.ndim(v) == 0 for v in row)
    return scalars and len(row) == 3


# A jit of its own: matrices of one shape are traced once, at any place of a tree.
@functools.partial(jax.jit, static_argnames=("cubic", "low", "precision"))
def _orthogonalize(
    matrix: jax.Array,
    rows: list[list[jax.Array]],
    safety: jax.Array,
    eps: jax.Array,
    *,
    cubic: tuple[bool, ...],
    low: DType,
    precision: Any,
) -> jax.Array:
    m, n = matrix.shape[-2:]
    wide = compute_dtype(matrix.dtype)
    # A batch of one costs twice the plain product on CPU.
    batch = (-1,) if matrix.size > m * n else ()
    x = _normalize(matrix.astype(wide).reshape(*batch, m, n), safety, eps)

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.astype(low), b.astype(low), precision=precision, preferred_element_type=wide)

    for (a, b, c), without_c in zip(rows, cubic, strict=True):
        adjoint = jnp.conj(x.mT)
        gram = times(x, adjoint) if m <= n else times(adjoint, x)
        b, c = b.astype(wide), c.astype(wide)
        poly = b * gram if without_c else b * gram + c * times(gram, gram)
        x = a.astype(wide) * x + (times(poly, x) if m <= n else times(x, poly))
    return x.reshape(matrix.shape).astype(matrix.dtype)


def _normalize(x: jax.Array, safety: jax.Array, eps: jax.Array) -> jax.Array:
    """`x / (safety * |x|_F + eps)` for each matrix, finite for all finite `x`."""
    axes = (-2, -1)
    # Squares of elements scaled to one neither overflow nor underflow; the scale itself cancels. It
    # stays inside the range whose reciprocals are normal numbers, as XLA may multiply by them.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True))
    limits = np.finfo(largest.dtype)
    s = jnp.where(largest >= limits.tiny, jnp.minimum(largest, limits.max / 16), 1)
    scaled = x / s.astype(x.dtype)
    square = jnp.sum(jnp.real(scaled * jnp.conj(scaled)), axis=axes, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    denominator = safety * norm + eps / s
    return scaled / jnp.where(denominator > 0, denominator, 1).astype(x.dtype)
