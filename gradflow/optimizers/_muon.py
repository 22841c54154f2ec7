"""Muon: the momentum of a matrix with all its singular values set to one."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._core._compose import chain, init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import compute_dtype, in_dtype_of
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Iterations, NonNegative, Rate
from gradflow._expressions._registry import register_record
from gradflow._rules._leafwise import Scalars, leafwise, specialize
from gradflow._rules._math import bounded, larger_size, one_minus_power, safe_sqrt, size_root
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import EmptyState, MaskOrFn, OptState, Pair, Params, Updates, is_absent
from gradflow.linalg import NEWTON_SCHULZ_SAFETY, NEWTON_SCHULZ_TABLES, newton_schulz
from gradflow.matrices._matrix import MatrixAxes, to_blocks
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices, resolve_matrices
from gradflow.optimizers._adam import adamw
from gradflow.optimizers._matrices import leafwise_matrices
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.wrappers import partition


@register_record
class MuonDimensionNumbers(NamedTuple):
    """The input and output axes of the matrices in a leaf; the other axes are batch axes."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


class MuonState(NamedTuple):
    """Steps taken, the momentum, and the polynomials' coefficients, stored for inspection."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    ns_coeffs: jax.Array


_JORDAN = (3.4445, -4.775, 2.0315)
_NAMED: Mapping[str, Any] = {
    **NEWTON_SCHULZ_TABLES,
    # The field's names for the default, and for the rows of Ahn et al. 2025.
    "standard": _JORDAN,
    "dion": NEWTON_SCHULZ_TABLES["quintic_5"],
}
_PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


def muon_scalars(count: jax.Array, beta: jax.Array, **_: Any) -> Scalars:
    """The decay's complement and the bias corrections of step `count`, which begins at 1."""
    c = 1 - beta
    return {
        "c": c,
        "debias": 1 / one_minus_power(c, count),
        "debias_next": 1 / one_minus_power(c, increment(count)),
    }


class _Options(NamedTuple):
    """Static options of the computation."""

    nesterov: bool
    adaptive: bool
    preconditioning: str
    bias_correction: bool
    ns_dtype: np.dtype | None
    ns_steps: int
    cubic: tuple[bool, ...]  # per row of coefficients: whether its term of the fifth power is absent


def momentum_rule(g: jax.Array, mu: jax.Array, s: Any, *, options: _Options) -> tuple[jax.Array, ...]:
    """Jordan et al. 2024, Algorithm 2: what the orthogonal factor is taken of, and the average."""
    g = bounded(g) + (g - g)  # NaN where it is not finite
    mu = s.beta * mu + s.c * g
    debias, debias_next = (s.debias, s.debias_next) if options.bias_correction else (1, 1)
    return s.beta * debias_next * mu + s.c * debias * g if options.nesterov else debias * mu, mu


def orthogonal_rule(m: jax.Array, s: Any, *, options: _Options) -> jax.Array:
    """Jordan et al. 2024, Algorithm 2: the orthogonal factor of one matrix."""
    return _orthogonal(s, options, m)


def _orthogonal(s: Any, options: _Options, x: jax.Array) -> jax.Array:
    rows = [
        (getattr(s, f"a{i}"), getattr(s, f"b{i}"), 0.0 if cubic else getattr(s, f"c{i}"))
        for i, cubic in enumerate(options.cubic)
    ]
    table = rows * (options.ns_steps // len(rows))
    polynomials = functools.partial(newton_schulz, coefficients=table, dtype=options.ns_dtype)

    def one(x: jax.Array) -> jax.Array:
        x, eps, safety = _precondition(options.preconditioning, x, s.eps)
        return polynomials(x, eps=eps, safety=s.margin * safety)

    if options.preconditioning == "frobenius":
        y = polynomials(x, eps=s.eps, safety=s.margin)
    elif x.size == math.prod(x.shape[-2:]):
        y = one(x.reshape(x.shape[-2:])).reshape(x.shape)
    else:
        y = jax.vmap(one)(x.reshape(-1, *x.shape[-2:])).reshape(x.shape)
    return y * _dual_norm(x, y) if options.adaptive else y


def _precondition(how: str, x: jax.Array, eps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A scaled matrix, and the `eps` and `safety` that turn its Frobenius norm into the chosen bound."""
    x, largest = _unit(x)
    adjoint = jnp.conj(x.T)
    wide = x.shape[0] <= x.shape[1]
    gram = jnp.matmul(x, adjoint) if wide else jnp.matmul(adjoint, x)
    if how == "aol":
        # These row (or column) scales bound all singular values by 1 (Prach & Lampert 2022, theorem 1).
        sizes = safe_sqrt(jnp.sum(jnp.abs(gram), axis=-1)) + eps / largest
        factors = 1 / jnp.where(sizes > 0, sizes, 1)
        x = x * (factors[:, None] if wide else factors[None, :]).astype(x.dtype)
        bound, eps = jnp.ones_like(eps), jnp.zeros_like(eps)
    elif how == "schatten":
        bound, eps = safe_sqrt(safe_sqrt(jnp.sum(jnp.real(gram * jnp.conj(gram))))), eps / largest
    else:
        bound, eps = safe_sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 0)), eps / largest
    unit, size = _unit(x)  # scaled rows of a tiny matrix are tiny, too
    norm = size * safe_sqrt(jnp.sum(jnp.real(unit * jnp.conj(unit))))
    return x, eps, jnp.where(norm > 0, bound / jnp.where(norm > 0, norm, 1), 1)


def _unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x` divided by its largest absolute element, so that squares stay in range, and that element."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    limits = jnp.finfo(largest.dtype)
    largest = jnp.where(largest >= limits.tiny, jnp.minimum(largest, limits.max / 16), 1)
    return x / largest.astype(x.dtype), largest


def _dual_norm(x: jax.Array, y: jax.Array) -> jax.Array:
    """The sum of the singular values of each `x`, of which `y` is the orthogonal factor."""
    scaled, largest = _unit(x)
    norm = largest * jnp.sum(jnp.real(jnp.conj(scaled) * y), axis=(-2, -1), keepdims=True)
    return jnp.minimum(norm, jnp.finfo(norm.dtype).max / 16).astype(y.dtype)


def _table(ns_coeffs: Any) -> tuple[Any, Any]:
    """The coefficients as stored in the state, and as rows."""
    if isinstance(ns_coeffs, str) and ns_coeffs not in _NAMED:
        raise ValueError(
            f"scale_by_muon: argument 'ns_coeffs' must be three numbers, rows of three numbers or one of "
            f"{', '.join(_NAMED)}; got {describe(ns_coeffs)}"
        )
    table = _NAMED[ns_coeffs] if isinstance(ns_coeffs, str) else ns_coeffs
    shape = _shape(table)
    if shape != (3,) and (len(shape) != 2 or shape[0] < 1 or shape[1] != 3):
        raise ValueError(
            "scale_by_muon: argument 'ns_coeffs' must be three numbers, or rows of three numbers, one per "
            f"step; got {describe(ns_coeffs)}"
        )
    return table, table if len(shape) == 2 else (table,)


def _shape(rows: Any) -> tuple[int, ...]:
    """The shape of an array or of nested sequences of scalars; (-1,) for anything else."""
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return tuple(np.shape(rows)) if hasattr(rows, "shape") or isinstance(rows, float | int) else (-1,)
    shapes = {_shape(row) for row in rows}
    return (len(rows), *shapes.pop()) if len(shapes) == 1 else (-1,)


def _stack(rows: Any, dtype: Any) -> Any:
    """Nested sequences of numbers as an array: a NumPy one, unless they contain a jax array."""
    if not any(isinstance(x, jax.Array) for x in jax.tree.leaves(rows)):
        return np.asarray(rows, dtype)
    if isinstance(rows, Sequence):
        return jnp.stack([jnp.asarray(_stack(row, dtype)) for row in rows])
    return rows.astype(dtype)


@transformation
def scale_by_muon(
    ns_coeffs: Any = _JORDAN,
    ns_steps: Iterations = 5,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
    bias_correction: bool = True,
    ns_dtype: Any = None,
) -> Pair:
    """Averages the gradients of a matrix and takes the orthogonal factor of the average.

        mu = beta * mu + (1 - beta) * g
        m = beta * mu / (1 - beta^(t+1)) + (1 - beta) * g / (1 - beta^t)
        u = newton_schulz(m), nearly U V^T for m = U S V^T

    Args:
      ns_coeffs: of the polynomials a x + b x^3 + c x^5: (a, b, c), one such row per step, or a name in
        `linalg.NEWTON_SCHULZ_TABLES`, such as "polar_express".
      ns_steps: number of times a single row is applied, >= 1.
      beta: decay of the average, in [0, 1).
      eps: added to the norm that m is first divided by, >= 0.
      mu_dtype: dtype of the average; the parameters' by default.
      nesterov: False uses `m = mu / (1 - beta^t)`.
      adaptive: multiplies u by the sum of m's singular values (Bernstein & Newhouse 2024, arXiv:2409.20325).
      preconditioning: that norm: "frobenius", or closer to the largest singular value: "schatten" (4-norm),
        "aol" (one per row, arXiv:2208.03160) or "spectral" (exact, expensive).
      weight_dimension_numbers: `MuonDimensionNumbers`, a tree of them or a prefix of one, or a function
        from the parameters to it. By default every leaf must have two axes.
      bias_correction: False leaves out the divisions by 1 - beta^t, as PyTorch does.
      ns_dtype: dtype of the matrix products, such as bfloat16; float32 at least by default.

    Raises ValueError for a leaf that is not a matrix, and inside `shard_map` for a sharded one.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_muon(), gf.scale_by_learning_rate(0.02)))
    chain(scale_by_muon(), scale_by_learning_rate(0.02))
    """
    if preconditioning not in _PRECONDITIONINGS:
        raise ValueError(
            f"scale_by_muon: argument 'preconditioning' must be one of {', '.join(_PRECONDITIONINGS)}; "
            f"got {describe(preconditioning)}"
        )
    table, rows = _table(ns_coeffs)
    margin = NEWTON_SCHULZ_SAFETY.get(ns_coeffs, 1.0) if isinstance(ns_coeffs, str) else 1.0
    cubic = tuple(isinstance(row[2], int | float) and row[2] == 0 for row in rows)
    steps = len(rows) if rows is table else ns_steps
    options = _Options(nesterov, adaptive, preconditioning, bias_correction, ns_dtype, steps, cubic)
    average = specialize(momentum_rule, options=options)
    orthogonal = specialize(orthogonal_rule, options=options)

    def init(params: Params) -> OptState:
        _axes_of(weight_dimension_numbers, params)
        dtype = jnp.zeros((), float).dtype
        coefficients = zero_scalar(params, dtype) + _stack(table, dtype)
        return MuonState(zero_scalar(params), first_moment(params, mu_dtype), coefficients)

    def update(updates: Updates, state: MuonState, params: Params | None = None) -> tuple[Updates, MuonState]:
        axes = _axes_of(weight_dimension_numbers, updates if params is None else params)
        refuse_varying("an orthogonal factor", updates)
        count = increment(state.count)
        # Separate scalars are free in the compiled program, where a row would have to be sliced.
        coefficients: dict[str, Any] = {
            f"{name}{i}": row[k] for i, row in enumerate(rows) for k, name in enumerate("abc")
        }
        wide = jax.tree.map(lambda g: g.astype(compute_dtype(g.dtype)), updates)
        m, mu = leafwise(average, (wide, state.mu), muon_scalars, count=count, beta=beta)
        (u,) = per_matrix(orthogonal, axes, (m,), in_loops=True, eps=eps, margin=margin, **coefficients)
        u = jax.tree.map(in_dtype_of, u, updates)
        return u, MuonState(count, mu, jnp.copy(state.ns_coeffs))

    return init, update


def _axes_of(numbers: Any, params: Params) -> Any:
    """Every leaf's axes; raises ValueError naming the first leaf that is not a matrix."""
    return require_matrices(numbers, params, MuonDimensionNumbers)


def shape_rule(g: jax.Array, s: Any, *, axes: MatrixAxes) -> jax.Array:
    """u = sqrt(max(1, fan_out / fan_in)) * g."""
    return _by_block(lambda fan_in, fan_out: size_root(larger_size(1, fan_out / max(fan_in, 1))), g, axes)


def consistent_shape_rule(g: jax.Array, s: Any, *, axes: MatrixAxes) -> jax.Array:
    """u = consistent_rms * sqrt(max(fan_in, fan_out)) * g."""
    scaled = _by_block(lambda fan_in, fan_out: size_root(larger_size(fan_in, fan_out)), g, axes)
    return s.consistent_rms * scaled


def _by_block(factor: Callable[[int, int], float], g: jax.Array, axes: MatrixAxes) -> jax.Array:
    """`g` with each of its matrices multiplied by a factor of its sides."""
    factors = [factor(rows, columns) for _, rows, columns in axes.shapes(g.shape)]
    if len(factors) == 1 or len(set(factors)) == 1:
        return factors[0] * g
    blocks, back = to_blocks(g, axes)
    return back([f * x for f, x in zip(factors, blocks, strict=True)])


@transformation
def scale_by_shape(weight_dimension_numbers: Any = None, consistent_rms: NonNegative | None = None) -> Pair:
    """Multiplies the update of a matrix by a factor of its shape.

        u = sqrt(max(1, fan_out / fan_in)) * g                    with consistent_rms None
        u = consistent_rms * sqrt(max(fan_in, fan_out)) * g       otherwise

    Args:
      weight_dimension_numbers: as in `scale_by_muon`.
      consistent_rms: root mean square of an orthogonal update, >= 0; 0.2 is typical of AdamW.

    Raises ValueError for a leaf that is not a matrix. Sources: Jordan et al. 2024; Liu et al. 2025,
    arXiv:2502.16982.
    """

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        axes = _axes_of(weight_dimension_numbers, updates if params is None else params)
        refuse_varying("the shape", updates)
        if consistent_rms is None:
            return leafwise_matrices(shape_rule, axes, (updates,))[0], state
        scaled = leafwise_matrices(
            consistent_shape_rule, axes, (updates,), None, consistent_rms=consistent_rms
        )
        return scaled[0], state

    return init_empty_state, update


def _labels(numbers: Any, params: Params) -> Any:
    """ "muon" for matrices, "adam" for other leaves."""
    axes = resolve_matrices(numbers, params, MuonDimensionNumbers, record=False)
    return jax.tree.map(
        lambda p, a: p if is_absent(p) else "adam" if a is None else "muon", params, axes, is_leaf=is_absent
    )


@transformation
def muon(
    learning_rate: Rate,
    ns_coeffs: Any = _JORDAN,
    ns_steps: Iterations = 5,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: MaskOrFn | None = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: Rate | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: NonNegative | None = None,
    bias_correction: bool = True,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """Muon for matrices, AdamW for other leaves.

        matrices:  u = -learning_rate * (scale_by_shape(scale_by_muon(g)) + weight_decay * p)
        others:    adamw(adam_learning_rate, adam_b1, adam_b2, eps, ..., adam_weight_decay)

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: >= 0; PyTorch's default is 0.1.
      weight_decay_mask: tree of booleans, or a function from the parameters to one: where to decay matrices.
      adam_learning_rate: a number >= 0 or a schedule; None is `learning_rate`.
      muon_weight_dimension_numbers: tree of `MuonDimensionNumbers`, and of None for leaves of Adam, or a
        function from the parameters to it. By default leaves of two axes go to Muon; assign embeddings
        and heads to Adam.
      consistent_rms: 0.2 lets Muon share AdamW's learning rate and decay; see `scale_by_shape`.

    The others and the source as in `scale_by_muon`. `bias_correction=False` is PyTorch's Muon.
    """
    matrices = chain(
        scale_by_muon(
            ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov=nesterov, adaptive=adaptive,
            preconditioning=preconditioning, weight_dimension_numbers=muon_weight_dimension_numbers,
            bias_correction=bias_correction, ns_dtype=ns_dtype,
        ),
        scale_by_shape(muon_weight_dimension_numbers, consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip
    others = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, adam_weight_decay, nesterov=nesterov,
    )  # fmt: skip
    labels: Callable[[Params], Any] = functools.partial(_labels, muon_weight_dimension_numbers)
    return partition({"muon": matrices, "adam": others}, labels)
