"""Orthogonalization by matrix products: odd polynomials that move singular values toward one."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import DTYPE, FLAG, checked, is_number_or_array
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, real_dtype
from gradflow._errors import describe
from gradflow._platform import by_platform
from gradflow._rules._unit_norm import unit_norm
from gradflow.linalg._arguments import PRECISION, array, at_least_zero, count

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
        # The Polar Express with a factor 1.01 a degree inside; it ends at one itself.
        "polar_express_8": (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        ),
        # The Polar Express with a factor 1.05 a degree inside, so that half precision cannot leave it.
        "polar_express_safe": tuple(
            (a / 1.05, b / 1.05**3, c / 1.05**5)
            for a, b, c in (
                (8.28721, -23.59589, 17.30039),
                (4.10706, -2.94785, 0.54484),
                (3.94869, -2.90890, 0.55182),
                (3.31842, -2.48849, 0.51005),
                (2.30065, -1.66890, 0.41881),
            )
        ),
        # Quintics fitted one after the other to what the one before leaves; they may be cycled.
        "quintic_5": (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        # Chebyshev's alternation, Grishina, Smirnov, Rakhuba 2025, arXiv 2506.10935.
        "cans": (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        # No fifth power, which saves a product a step; it leaves singular values in about [0.77, 1.30].
        "cubic_5": (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        # For rows scaled as by Prach & Lampert 2022, arXiv 2208.03160, which leaves larger singular values.
        "aol": (
            (4.0098, -7.0585, 2.4635),
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
    }
)

# Tables for an interval that ends at one exactly, which rounding must not leave.
NEWTON_SCHULZ_SAFETY: Mapping[str, float] = MappingProxyType({"polar_express": 1.02, "cans": 1.02})

# What follows the last row where more steps are asked for. Repeated, the last rows of these tables would
# converge to another number than one, 1.035 for "polar_express".
_EXACT_ROW = (1.875, -1.25, 0.375)
_CONTINUED = {"polar_express": _EXACT_ROW, "polar_express_safe": _EXACT_ROW, "cans": _EXACT_ROW}
# The Gram form multiplies m x m matrices in the place of m x n ones; below this ratio that does not pay.
_GRAM_FROM = 2
# Its rounding errors grow with the square of the condition; a product with the matrix itself resets them.
# An odd table ends with one step more, which spares a product: at 4:1 it is 1.5 times as fast as the
# standard form, else 1.28 times (`python -m benchmarks.frontier --bars`).
_GRAM_STEPS = 2
# From so many products with the matrix on, their diagonals are not multiplied by: one rounded number would
# scale a whole row, and such errors add up. "cubic" had four times the error of the standard form.
_GRAM_RESTARTS = 3


@checked(dtype=DTYPE | None, gram=FLAG | None, precision=PRECISION | None)
def newton_schulz(
    x: Any,
    coefficients: Any = "keller",
    steps: int | None = None,
    *,
    eps: Any = 1e-7,
    safety: Any = None,
    dtype: Any = None,
    precision: Any = None,
    gram: bool | None = None,
) -> jax.Array:
    """Computes the orthogonal polar factor of `x = U S V^T`, near `U V^T`, by matrix products.

        x <- x / (safety * |x|_F + eps)
        x <- a x + (b A + c A^2) x,  A = x x^T on the smaller side

    Args:
      x: (..., m, n), real or complex, a batch of matrices; zero and zero-size matrices give zeros.
      coefficients: a name in `NEWTON_SCHULZ_TABLES`, one triple (a, b, c), or one per step, numbers or an
        array. A table shorter than `steps` repeats its last row, or one that converges to one where
        that does not. `c = 0` saves a product.
      steps: number of steps, >= 0; by default the length of the table, 5 for one triple.
      eps: >= 0, by default Jordan's. It shrinks matrices whose norm is not much larger.
      safety: >= 0; by default 1.02 for "polar_express" and "cans", otherwise 1.
      dtype: of the products; by default float32 or wider. The norm is never computed in less.
      precision: as in `jax.numpy.matmul`.
      gram: iterates on `x x^T` and restarts from `x` every two steps, in an odd table last for three. It
        costs less the longer the longer side. By default where one side is at least twice the other and
        products have all digits of float32 or wider: on a GPU or TPU with `precision="highest"`. With
        fewer it is 15 to 20 times less accurate than the standard form, or diverges.

    Returns an array of the shape and dtype of `x`.
    Source: Björck & Bowie, "An iterative algorithm for computing the best estimate of an orthogonal
    matrix", SIAM J. Numer. Anal. 8(2), 1971; the comments of the tables give theirs.
    """
    name = "newton_schulz"
    matrix = array(name, "x", x, "(..., m, n)", complex_too=True)
    rows = _rows(coefficients, steps)
    wide = compute_dtype(matrix.dtype)
    if safety is None:
        safety = NEWTON_SCHULZ_SAFETY.get(coefficients, 1) if isinstance(coefficients, str) else 1
    margin = at_least_zero(name, "safety", safety, real_dtype(wide))
    floor = at_least_zero(name, "eps", eps, real_dtype(wide))
    low = wide if dtype is None else np.dtype(dtype)
    if not is_inexact(low) or is_complex(low) != is_complex(wide):
        kind = "complex" if is_complex(wide) else "real"
        raise TypeError(f"{name}: argument 'dtype' must be a {kind} floating-point type; got {dtype}")
    is_narrow = np.finfo(real_dtype(low)).bits < 32 if low != jnp.bfloat16 else True
    if gram and is_narrow:
        raise ValueError(f"{name}: argument 'dtype' must be float32 or wider with 'gram'; got {low}")
    if matrix.size == 0:
        return matrix
    if gram is None:
        gram = not is_narrow and _is_long(*matrix.shape[-2:]) and len(rows) > 1
        if gram and not _is_exact(precision, low):
            gram = None
    # Operands, so that a table may be swept or learned; only a zero is static.
    numbers = [[jnp.asarray(v, dtype=real_dtype(wide)) for v in row] for row in rows]
    cubic = tuple(isinstance(c, int | float) and c == 0 for _, _, c in rows)
    y: jax.Array = _orthogonalize(
        matrix, numbers, margin, floor, cubic=cubic, low=low, precision=precision, gram=gram
    )
    return y


def _is_exact(precision: Any, dtype: DType) -> bool:
    """Whether an accelerator multiplies in all digits of a dtype."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # jax adds it later
    highest = (jax.lax.Precision.HIGHEST, "highest", "float32")
    return np.finfo(real_dtype(dtype)).bits > 32 or (isinstance(precision, Hashable) and precision in highest)


def _is_long(m: int, n: int) -> bool:
    """Whether the Gram form pays; symbolic sizes, as in an exported program, cannot be compared."""
    known = isinstance(m, int) and isinstance(n, int)
    return known and max(m, n) >= _GRAM_FROM * min(m, n)


def _rows(coefficients: Any, steps: int | None) -> list[Triple]:
    """One triple per step."""
    name = "newton_schulz"
    if steps is not None:
        steps = count(name, "steps", steps, most=10_000)
    if isinstance(coefficients, str):
        if coefficients not in NEWTON_SCHULZ_TABLES:
            names = ", ".join(NEWTON_SCHULZ_TABLES)
            raise ValueError(
                f"{name}: argument 'coefficients' must be one of {names}; got {describe(coefficients)}"
            )
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
    last = _CONTINUED.get(coefficients, table[-1]) if isinstance(coefficients, str) else table[-1]
    return [tuple(table[i] if i < len(table) else last) for i in range(steps)]


def _is_triple(row: Any) -> bool:
    if isinstance(row, np.ndarray | jax.Array):
        return row.shape == (3,)
    scalars = isinstance(row, Sequence) and all(is_number_or_array(v) and np.ndim(v) == 0 for v in row)
    return scalars and len(row) == 3


# A jit of its own: matrices of one shape are traced once, at any place of a tree.
@functools.partial(jax.jit, static_argnames=("cubic", "low", "precision", "gram"))
def _orthogonalize(
    matrix: jax.Array,
    rows: list[list[jax.Array]],
    safety: jax.Array,
    eps: jax.Array,
    *,
    cubic: tuple[bool, ...],
    low: DType,
    precision: Any,
    gram: bool | None,  # None: on a CPU alone
) -> jax.Array:
    m, n = matrix.shape[-2:]
    wide = compute_dtype(matrix.dtype)
    # A batch of one costs twice the plain product on CPU.
    batch = (-1,) if any(size != 1 for size in matrix.shape[:-2]) else ()
    # Of symbolic sizes either side is right; one of a known size is likely the shorter.
    is_wide = m <= n if isinstance(m, int) and isinstance(n, int) else isinstance(m, int)
    x = _normalize(matrix.astype(wide).reshape(*batch, m, n), safety, eps)

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.astype(low), b.astype(low), precision=precision, preferred_element_type=wide)

    def short_product(x: jax.Array) -> jax.Array:
        adjoint = jnp.conj(x.mT)
        return times(x, adjoint) if is_wide else times(adjoint, x)

    def apply(poly: jax.Array, x: jax.Array) -> jax.Array:
        return times(poly, x) if is_wide else times(x, poly)

    table = [
        (a.astype(wide), b.astype(wide), None if without_c else c.astype(wide))
        for (a, b, c), without_c in zip(rows, cubic, strict=True)
    ]

    def in_gram_form(x: jax.Array) -> jax.Array:
        parts = _between_restarts(table)
        for part in parts:
            q = _gram_polynomial(short_product(x), part, times)
            if len(parts) < _GRAM_RESTARTS:
                x = apply(q, x)
            else:
                mean, rest = _less_mean(q)
                x = mean * x + apply(rest, x)
        return x

    def in_standard_form(x: jax.Array) -> jax.Array:
        for a, b, c in table:
            product = short_product(x)
            poly = b * product if c is None else b * product + c * times(product, product)
            x = a * x + apply(poly, x)
        return x

    if gram is None:
        x = by_platform(x, cpu=in_gram_form, accelerator=in_standard_form)
    else:
        x = in_gram_form(x) if gram else in_standard_form(x)
    return x.reshape(matrix.shape).astype(matrix.dtype)


def _between_restarts(table: list[Any]) -> list[list[Any]]:
    """The rows of the steps from one product with the matrix to the next."""
    starts = range(0, max(len(table) - len(table) % _GRAM_STEPS, 1), _GRAM_STEPS)
    return [table[start : None if start == starts[-1] else start + _GRAM_STEPS] for start in starts]


def _gram_polynomial(
    r: jax.Array, rows: list[tuple[Any, Any, Any]], times: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """The product Q of the steps' polynomials of R = x x^*, so that the steps' result is Q x.

    Rounding makes products of different matrices differ from their adjoints. That turns the result, which
    later steps do not mend; after three steps it shows, so there the adjoint is averaged in. R is multiplied
    by whole polynomials, as their terms cancel where R is large.
    """
    is_long = len(rows) > _GRAM_STEPS
    q = eye = _identity_like(r)
    for i, (a, b, c) in enumerate(rows):
        poly = b * r if c is None else b * r + c * times(r, r)
        if i + 1 == len(rows):
            q = a * q + (times(q, poly) if i else poly)
        else:
            factor = poly + a * eye
            q = times(q, factor) if i else factor
            r = times(factor, times(r, factor))
            r = _symmetric(r) if is_long and i == 0 else r
    return _symmetric(q) if is_long else q


def _identity_like(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)


def _symmetric(x: jax.Array) -> jax.Array:
    return (x + jnp.conj(x.mT)) / 2


def _less_mean(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of a diagonal, and the matrix without that multiple of the identity."""
    eye = _identity_like(q)
    # Both together are the same for any number, which therefore has no derivative.
    mean = jax.lax.stop_gradient(jnp.sum(q * eye, axis=(-2, -1), keepdims=True) / q.shape[-1])
    return mean, q - mean * eye


def _normalize(x: jax.Array, safety: jax.Array, eps: jax.Array) -> jax.Array:
    """`x / (safety * |x|_F + eps)` for each matrix, finite for all finite `x`."""
    y: jax.Array = by_platform(x, safety, eps, cpu=_scaled_by_largest, accelerator=_scaled_by_norm)
    return y


def _scaled_by_norm(x: jax.Array, safety: jax.Array, eps: jax.Array) -> jax.Array:
    """From one reading. A GPU launches three kernels, where the largest number takes it six.

    A TPU adds up in the kernel that makes the momentum: Muon launches 128 kernels, not 136.
    """
    size, power = unit_norm(x, (-2, -1), beside=True)
    denominator = safety * size + eps * power
    return power.astype(x.dtype) * x / jnp.where(denominator > 0, denominator, 1).astype(x.dtype)


def _scaled_by_largest(x: jax.Array, safety: jax.Array, eps: jax.Array) -> jax.Array:
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
