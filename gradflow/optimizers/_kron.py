"""PSGD Kron: a preconditioner for each side of a leaf, fitted to random probes."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Fraction, Length, NonNegative, Positive, Rate
from gradflow._kernel_hints._order import in_turn
from gradflow._platform import by_platform
from gradflow._rules._leafwise import Scalars
from gradflow._rules._math import one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Other
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._refresh_per_matrix import refresh_per_matrix
from gradflow.matrices._resolve import tensors
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix, keys_per_matrix
from gradflow.optimizers._for_matrices import with_others
from gradflow.optimizers._kronecker import limited, to_unit
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.transforms._keys import check_key, key_state, next_key

# Of each side of a leaf an upper triangular matrix, or the diagonal of one.
Triangles = tuple[jax.Array, ...]
Memory = Literal["one_diag", "all_diag"] | None

_BALANCE_PROBABILITY = 0.01
_LARGEST_RMS = 1.1
_EXACT = "highest"


class KronState(NamedTuple):
    """Steps taken, steps since the factors moved, the PRNG key's data, the momentum, and the factors."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    update_count: jax.Array
    rng_key: jax.Array
    mu: Mean
    factors: Other


def kron_scalars(b1: jax.Array, count: jax.Array, **_: jax.Array) -> Scalars:
    """The decay's complement and the bias correction of step `count`, which begins at 1."""
    return {"c1": 1 - b1, "debias": 1 / one_minus_power(1 - b1, count)}


def momentum_rule(g: jax.Array, mu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average of the gradients."""
    g, _ = limited(g)
    mu = s.b1 * mu + s.c1 * g
    return mu, mu


def kron_rule(mu: jax.Array, factors: Triangles, s: Any) -> jax.Array:
    """Li 2018, with the whitening criterion: u = Q^T Q m for m = mu / (1 - b1^t)."""
    m = s.debias * mu
    y, size = to_unit(m.reshape(-1) if m.ndim == 0 else m)
    for axis, q in enumerate(factors):
        y = _times(q, _times(q, y, axis), axis, transposed=True)
    norm = safe_sqrt(jnp.mean(y * y)) * size
    return (y * (size * jnp.minimum(1, _LARGEST_RMS / (norm + 1e-6)))).reshape(m.shape)


def fitting_rule(factors: Triangles, mu: jax.Array, key: Any, s: Any) -> tuple[Triangles]:
    """Q moves so that Q m is whiter. A zero m says nothing of it.

    Branches of numbers alone: a GPU would copy the factors that a branch returns.
    """
    m = (mu.reshape(-1) if mu.ndim == 0 else mu) / one_minus_power(1 - s.b1, s.count)
    return (fitted_factors(factors, m, key, s.preconditioner_lr),)


def fitted_factors(factors: Triangles, m: jax.Array, key: Any, rate: jax.Array) -> Triangles:
    """One step of relative gradient descent on |Q m|^2 + |Q^-T v|^2 for a random v; none for m = 0."""
    says = jnp.any(m != 0)
    balance_key, probe_key = jax.random.split(key)
    v = jax.random.normal(probe_key, m.shape, m.dtype)
    # Their product is one, so A and B are the same with or without them.
    scales = [jnp.ones((), q.dtype) for q in factors]
    if len(factors) > 1:
        is_due = says & (jax.random.uniform(balance_key) < _BALANCE_PROBABILITY)
        scales = jax.lax.cond(is_due, _balancing, lambda factors: scales, factors)
    a = m + jnp.sqrt(jnp.finfo(jnp.float32).eps).astype(m.dtype) * jnp.mean(jnp.abs(m)) * v
    b = v
    for axis, q in enumerate(factors):
        a = _times(q, a, axis)
        b = _solved(q, b, axis)
    rate = jnp.where(says, rate, jnp.zeros_like(rate))
    moved: list[jax.Array] = []
    for axis, (q, scale) in enumerate(zip(factors, scales, strict=True)):
        # A GPU begins when the factors before are written: beside A and B it holds two matrices.
        moved, (a, b) = in_turn(moved, [a, b])
        new = scale * _moved(q, a, b, axis, rate)
        moved.append(jnp.where(jnp.sum(new * 0) == 0, new, q))
    return tuple(moved)


def _balancing(factors: Triangles) -> list[jax.Array]:
    """The numbers that make the largest elements of the factors equal, and keep their product."""
    sizes = jnp.stack([jnp.max(jnp.abs(q)) for q in factors])
    mean = jnp.exp(jnp.mean(jnp.log(sizes)))
    return [mean / sizes[i] for i in range(len(factors))]


def _times(q: jax.Array, x: jax.Array, axis: int, *, transposed: bool = False) -> jax.Array:
    """Q, or its transpose, on one axis of a tensor."""
    if q.ndim == 1:
        return x * _along(q, x.ndim, axis)
    product = jnp.tensordot(q, x, ((0 if transposed else 1,), (axis,)), precision=_EXACT)
    return jnp.moveaxis(product, 0, axis)


def _along(q: jax.Array, ndim: int, axis: int) -> jax.Array:
    return q.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _solved(q: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """The inverse of Q^T on one axis of a tensor."""
    if q.ndim == 1:
        return x / _along(q, x.ndim, axis)
    # The solver reads columns, and the columns of a transpose lie as the rows do.
    if axis == x.ndim - 1:
        rows = x.reshape(-1, x.shape[-1])
        return jax.scipy.linalg.solve_triangular(q.T, rows.T, lower=True).T.reshape(x.shape)
    front = jnp.moveaxis(x, axis, 0)
    columns = front.reshape(front.shape[0], -1).T
    solved = jax.lax.linalg.triangular_solve(q.T, columns, lower=True, transpose_a=True)
    return jnp.moveaxis(solved.T.reshape(front.shape), 0, axis)


def _moved(q: jax.Array, a: jax.Array, b: jax.Array, axis: int, rate: jax.Array) -> jax.Array:
    others = tuple(i for i in range(a.ndim) if i != axis)
    tiny = jnp.finfo(q.dtype).tiny
    if q.ndim == 1:
        aa, bb = jnp.sum(a * a, axis=others), jnp.sum(b * b, axis=others)
        return q - rate / (jnp.max(jnp.abs(aa + bb)) + tiny) * (aa - bb) * q
    aa = jnp.tensordot(a, a, (others, others), precision=_EXACT)
    bb = jnp.tensordot(b, b, (others, others), precision=_EXACT)
    (bound,), (aa, bb) = in_turn([_norm_bound(aa, bb) + tiny], [aa, bb])
    step = jnp.matmul(jnp.triu(aa - bb), q, precision=_EXACT)
    return q - rate / bound * step


def _norm_bound(a: jax.Array, b: jax.Array) -> jax.Array:
    """A lower bound of the largest singular value of `a + b`, by two products with a vector.

    They are symmetric. Sums of products need no array for `a + b`, which `matmul` would.
    """
    together, apart = _largest_of_sum, _largest_of_diagonals
    size = to_unit(by_platform(a, b, cpu=together, accelerator=apart, tpu=together))[1]
    largest = jnp.argmax(jnp.sum(((a + b) / size) ** 2, axis=1))
    row = (a[largest] + b[largest]) / size
    x = _sum_times(a, b, size, row)
    norm = jnp.sqrt(jnp.sum(x * x))
    unit = x / jnp.where(norm > 0, norm, 1)
    y = _sum_times(a, b, size, unit)
    return jnp.sqrt(jnp.sum(y * y)) * size


def _largest_of_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(a + b))


def _largest_of_diagonals(a: jax.Array, b: jax.Array) -> jax.Array:
    """The same, as both are products of a matrix with its transpose."""
    return jnp.max(jnp.diagonal(a) + jnp.diagonal(b))


def _sum_times(a: jax.Array, b: jax.Array, size: jax.Array, x: jax.Array) -> jax.Array:
    """`(a + b) / size @ x`. A GPU would write an `a + b` that several kernels add up."""
    together, apart = _joint_product, _separate_products
    y: jax.Array = by_platform(a, b, size, x, cpu=together, accelerator=apart, tpu=together)
    return y


def _joint_product(a: jax.Array, b: jax.Array, size: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sum((a + b) / size * x[None, :], axis=1)


def _separate_products(a: jax.Array, b: jax.Array, size: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sum(a / size * x[None, :], axis=1) + jnp.sum(b / size * x[None, :], axis=1)


def _first_factors(shape: tuple[int, ...], p: Any, *, max_size: int, memory: Memory) -> Triangles:
    """Identity matrices, or the diagonals of them."""
    dtype = at_least_float32(real_dtype(p.dtype))
    longest = max(range(len(shape)), key=lambda i: shape[i], default=0)

    def is_diagonal(axis: int, n: int) -> bool:
        saved = memory == "all_diag" or (memory == "one_diag" and axis == longest)
        return saved or len(shape) < 2 or n == 1 or n > max_size

    return tuple(
        jnp.ones((n,), dtype) if is_diagonal(axis, n) else jnp.eye(n, dtype=dtype)
        for axis, n in enumerate(shape or (1,))
    )


def _annealed(count: jax.Array) -> jax.Array:
    """The probability of an update: one for 500 steps, then falling to 0.03 over 3500."""
    return jnp.clip(jnp.exp(-0.001 * (count.astype(jnp.float32) - 500)), 0.03, 1)


@transformation(leaves="real")
def scale_by_kron(
    b1: Decay = 0.9,
    preconditioner_update_probability: Fraction | None = None,
    preconditioner_lr: Positive = 0.1,
    max_size_triangular: Length = 8192,
    memory_save_mode: Memory = None,
    *,
    key: Any = 0,
    matrices: Any = None,
    mu_dtype: Any = None,
) -> Pair:
    """Whitens the momentum by a preconditioner for each side of a leaf.

        mu = b1 * mu + (1 - b1) * g;   m = mu / (1 - b1^t)
        A = Q_L @ m @ Q_R^T;   B = Q_L^-T @ v @ Q_R^-1 for a normal v
        Q_L = Q_L - preconditioner_lr * triu(A @ A^T - B @ B^T) @ Q_L / |A @ A^T + B @ B^T|, Q_R likewise
        u = Q_L^T @ Q_L @ m @ Q_R^T @ Q_R, its root mean square clipped at 1.1

    Args:
      b1: decay of the momentum, in [0, 1).
      preconditioner_update_probability: Q moves once in `1 / probability` steps, none for 0; None is one for
        500 steps and falls to 0.03 over 3500.
      preconditioner_lr: > 0.
      max_size_triangular: a longer side has a diagonal Q, and so has the one of a vector.
      memory_save_mode: "one_diag" has a diagonal Q for the longest side, "all_diag" for all.
      key: of the probes v, a PRNG key or an integer seed.
      matrices: `Matrix` or `choose_matrices` have all leaves taken as matrices, or as stacks of them.
      mu_dtype: dtype of the momentum; the parameters' by default. Q is held in float32 at least.

    Raises inside `shard_map` for pieces of a leaf. Source: Li 2018, arXiv:1512.04202, and
    github.com/lixilinx/psgd_torch.
    """
    if memory_save_mode not in (None, "one_diag", "all_diag"):
        raise ValueError(
            "scale_by_kron: argument 'memory_save_mode' must be None, 'one_diag' or 'all_diag'; "
            f"got {describe(memory_save_mode)}"
        )
    check_key("scale_by_kron", key)
    make = functools.partial(_first_factors, max_size=max_size_triangular, memory=memory_save_mode)

    def init(params: Params) -> OptState:
        return KronState(
            zero_scalar(params),
            zero_scalar(params),
            key_state(key, params),
            first_moment(params, mu_dtype),
            init_per_matrix(make, tensors(matrices, params), params),
        )

    def update(updates: Updates, state: KronState, params: Params | None = None) -> tuple[Updates, KronState]:
        axes = tensors(matrices, updates if params is None else params)
        check_like("updates", updates, "state", state.mu)
        check_per_matrix(make, axes, updates, factors=state.factors)
        count, waited = increment(state.count), increment(state.update_count)
        asked = preconditioner_update_probability
        probability = _annealed(count) if asked is None else jnp.asarray(asked, jnp.float32)
        due = waited.astype(jnp.float32) * probability >= 1
        now, later = next_key(key, state.rng_key)
        keys = keys_per_matrix(tree.split_key_like(now, updates), axes, updates)
        average, mu = per_matrix(momentum_rule, axes, (updates, state.mu), kron_scalars, count=count, b1=b1)
        (factors,) = refresh_per_matrix(
            fitting_rule, axes, due, average, (state.factors,), (average, keys), stays_finite=True,
            preconditioner_lr=preconditioner_lr, count=count, b1=b1,
        )  # fmt: skip
        (u, *_) = per_matrix(
            kron_rule, axes, (average, factors), kron_scalars, in_loops=True, turns=False, count=count, b1=b1
        )  # fmt: skip
        return u, KronState(count, jnp.where(due, 0, waited), later, mu, factors)

    return init, update


@transformation
def kron(
    learning_rate: Rate,
    b1: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    preconditioner_update_probability: Fraction | None = None,
    preconditioner_lr: Positive = 0.1,
    max_size_triangular: Length = 8192,
    memory_save_mode: Memory = None,
    mask: MaskOrFn | None = None,
    *,
    key: Any = 0,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """PSGD Kron: `scale_by_kron`, decoupled weight decay, then the learning rate.

    It takes all parameters. With `matrices` or `others` it is `for_matrices`, and what is not a matrix goes
    to `others`.

    Args:
      learning_rate: a number >= 0 or a schedule; about a third of AdamW's.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay.
      matrices: as in `for_matrices`; None with `others` is `hidden_matrices()`.
      others: for what is not a matrix; `adamw(learning_rate)` where only `matrices` is given.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `scale_by_kron`.
    """
    inner = chain(
        scale_by_kron(
            b1, preconditioner_update_probability, preconditioner_lr, max_size_triangular, memory_save_mode,
            key=key, mu_dtype=mu_dtype,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip
    return with_others(inner, learning_rate, others, others_rate, matrices)
