"""SOAP: Adam in the eigenbasis of Shampoo's statistics."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Length, NonNegative, Positive, Rate, Size
from gradflow._kernel_hints._order import in_turn
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import abs_sq, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Other, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._refresh_per_matrix import refresh_per_matrix
from gradflow.matrices._resolve import tensors
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix
from gradflow.optimizers._for_matrices import with_others
from gradflow.optimizers._kronecker import (
    Factors,
    after_factors,
    decay_factors,
    decay_whitened_factors,
    limited,
    new_basis,
    sides,
    turn,
)
from gradflow.transforms import step_with_decay


class SoapState(NamedTuple):
    """Calls so far, the moments, and for each side of a leaf the statistics and their eigenbasis.

    `mu` is as the parameters are, `nu` in the basis. A side without a basis has None.
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square
    factors: Other
    bases: Other


def soap_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **others: jax.Array) -> Scalars:
    """Bias corrections of steps that begin at the second call, which leaves the first one out."""
    steps = count - 1
    taken = jnp.minimum(steps, 1).astype(b1.dtype)
    c1, c2, first = 1 - b1, 1 - b2, 1 - taken
    root = safe_sqrt(one_minus_power(c2, steps) + first)
    return {
        "c1": taken * c1,
        "c2": taken * c2,
        "numerator": taken * root / (one_minus_power(c1, steps) + first),
        "root": jnp.ones_like(b2),
        "c3": 1 - others["shampoo_beta"],
    }


def soap_scalars_refreshed(count: jax.Array, b1: jax.Array, b2: jax.Array, **others: jax.Array) -> Scalars:
    """Adam's bias corrections, for a basis that is refreshed before each step."""
    c1, c2 = 1 - b1, 1 - b2
    return {
        "c1": c1,
        "c2": c2,
        "numerator": 1 / one_minus_power(c1, count),
        "root": 1 / safe_sqrt(one_minus_power(c2, count)),
        "c3": 1 - others["shampoo_beta"],
    }


def statistics_rule(g: jax.Array, factors: Factors, s: Any) -> tuple[Any, ...]:
    """Vyas et al. 2024, Algorithm 3, lines 3 and 4."""
    g, is_finite = limited(g, factors)
    return after_factors(g, decay_factors(g, is_finite, factors, s.shampoo_beta, s.c3))


def whitened_statistics_rule(g: jax.Array, factors: Factors, bases: Factors, s: Any) -> tuple[Any, ...]:
    """Lin et al. 2025: each side's statistics minimize the Kullback-Leibler divergence, the others given."""
    g, _ = limited(g, factors)
    return after_factors(g, decay_whitened_factors(g, factors, bases, s.shampoo_beta, s.c3, s.eps))


def soap_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, bases: Factors, s: Any) -> tuple[jax.Array, ...]:
    """Vyas et al. 2024, Algorithm 3: Adam in the bases, for a gradient that is `limited`."""
    mu = s.b1 * mu + s.c1 * g
    # In this order a GPU holds two matrices. One product of both would hold four.
    (mu,), (g,) = in_turn([mu], [g])
    nu = s.b2 * nu + s.c2 * abs_sq(turn(g, bases))
    (nu,), (m,) = in_turn([nu], [mu])
    u = s.numerator * turn(m, bases) / (s.root * safe_sqrt(nu) + s.eps)
    largest = jnp.finfo(u.dtype).max / max(u.size, 1)
    return turn(jnp.clip(u, -largest, largest), bases, back=True), mu, nu


def soap_step_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, factors: Factors, bases: Factors, s: Any, *, whitened: bool
) -> tuple[Any, ...]:
    """The statistics and the step, for bases that do not depend on this gradient."""
    g, factors = (
        whitened_statistics_rule(g, factors, bases, s) if whitened else statistics_rule(g, factors, s)
    )
    return *soap_rule(g, mu, nu, bases, s), factors


def side_rule(basis: jax.Array, factor: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Vyas et al. 2024, Algorithm 4."""
    return new_basis(basis, factor, s.after)


def order_rule(nu: jax.Array, orders: Any, s: Any) -> jax.Array:
    """Where the columns of a basis change places, what was measured along them goes with them."""
    # The first axis comes last, since its gather keeps the layout, which the branch not taken has, too.
    for axis, of_side in reversed(list(enumerate(orders))):
        if of_side is not None:
            nu = jnp.take(nu, of_side[0], axis=axis, mode="clip")
    return nu


@transformation(leaves="real")
def scale_by_soap(
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: Positive = 1e-8,
    precondition_frequency: Size = 10,
    max_dim: Length = 10000,
    *,
    refresh_first: bool = False,
    whitened: bool = False,
    matrices: Any = None,
    mu_dtype: Any = None,
) -> Pair:
    """Runs Adam in the eigenbasis of the averaged outer products of the gradient.

        L = shampoo_beta * L + (1 - shampoo_beta) * g @ g^T;   R likewise of g^T @ g
        mu = b1 * mu + (1 - b1) * g;   nu = b2 * nu + (1 - b2) * (Q_L^T @ g @ Q_R)^2
        u = Q_L @ ((Q_L^T @ mu @ Q_R) * sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(nu) + eps)) @ Q_R^T

    Every `precondition_frequency` steps Q_L and Q_R become `qr(L @ Q_L)` and `qr(R @ Q_R)`, their columns in
    descending order of `diag(Q^T L Q)`. As published this is between two steps, and the first call only
    collects statistics: its updates are zero. A leaf of more axes has a basis for each, a vector has none.

    Args:
      b1, b2: decays of Adam's moments, in [0, 1).
      shampoo_beta: decay of L and R, in [0, 1).
      eps: added to the root, > 0.
      precondition_frequency: steps from one choice of a basis to the next, >= 1.
      max_dim: a longer side has no statistics and no basis.
      refresh_first: refreshes before the step, takes the first step too, adds `eps` to the corrected root.
        The first square is zero off the diagonal of its own basis, so the second update may be hundreds of
        times too long: put a stage after it that sets the length, `orthogonalize` or `step_on_hyperball`.
      whitened: KL-SOAP: `g @ R^-1 @ g^T / columns` goes into L, R's values being at least `eps`.
      matrices: `Matrix` or `choose_matrices` have all leaves taken as matrices, or as stacks of them.
      mu_dtype: dtype of the first moment; the parameters' by default. The rest is held in float32 at least.

    Raises inside `shard_map` for pieces of a leaf. Sources: Vyas et al. 2024, arXiv:2409.11321;
    Lin et al. 2025, arXiv:2509.03378, for `whitened`.
    """
    scalars = soap_scalars_refreshed if refresh_first else soap_scalars
    make = functools.partial(sides, max_dim=max_dim, value=0.0)
    step_rule = specialize(soap_step_rule, whitened=whitened)

    def init(params: Params) -> OptState:
        axes = tensors(matrices, params)
        return SoapState(
            zero_scalar(params),
            first_moment(params, mu_dtype),
            second_moment(params),
            init_per_matrix(make, axes, params),
            init_per_matrix(functools.partial(make, value=1.0), axes, params),
        )

    def update(updates: Updates, state: SoapState, params: Params | None = None) -> tuple[Updates, SoapState]:
        axes = tensors(matrices, updates if params is None else params)
        check_like("updates", updates, "state", state.mu)
        check_per_matrix(make, axes, updates, factors=state.factors, bases=state.bases)
        count = increment(state.count)
        numbers: dict[str, Any] = {
            "count": count,
            "b1": b1,
            "b2": b2,
            "shampoo_beta": shampoo_beta,
            "eps": eps,
        }
        nu, bases = state.nu, state.bases

        def refreshed(due: jax.Array, factors: Any) -> tuple[Any, ...]:
            olds = state.nu, state.bases
            return refresh_per_matrix(
                order_rule, axes, due, updates, olds, (factors,), of_side=side_rule, after=0.0
            )

        if not refresh_first:
            # What the last step left due. After this one XLA would copy the bases before they are replaced.
            due = (count > 1) & ((count - 2) % precondition_frequency == 0)
            nu, bases = refreshed(due, state.factors)
            # It reads the factors. A GPU that wrote the new ones first would copy the old ones.
            leaves, structure = jax.tree.flatten(updates)
            _, leaves = in_turn(jax.tree.leaves(bases), leaves)
            updates = jax.tree.unflatten(structure, leaves)
            trees = (updates, state.mu, nu, state.factors, bases)
            u, mu, nu, factors, *_ = per_matrix(step_rule, axes, trees, scalars, **numbers)
            return u, SoapState(count, mu, nu, factors, bases)
        statistics = (updates, state.factors, *([bases] if whitened else []))
        rule = whitened_statistics_rule if whitened else statistics_rule
        g, factors, *_ = per_matrix(rule, axes, statistics, scalars, **numbers)
        nu, bases = refreshed((count - 1) % precondition_frequency == 0, factors)
        u, mu, nu, *_ = per_matrix(soap_rule, axes, (g, state.mu, nu, bases), scalars, **numbers)
        return u, SoapState(count, mu, nu, factors, bases)

    return init, update


@transformation
def soap(
    learning_rate: Rate,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
    precondition_frequency: Size = 10,
    max_dim: Length = 10000,
    mask: MaskOrFn | None = None,
    *,
    refresh_first: bool = False,
    whitened: bool = False,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """SOAP: `scale_by_soap`, then the step and a decay of the stepped weights.

    As published it takes all parameters, those of fewer than two axes as Adam does. With `matrices` or
    `others` it is `for_matrices`, and what is not a matrix goes to `others`.

    Args:
      learning_rate: a number >= 0 or a schedule; 3e-3 in the paper.
      weight_decay: >= 0; like the step, it begins with the second call unless `refresh_first`.
      mask: tree of booleans, or a function from the parameters to one: where to decay.
      matrices: as in `for_matrices`; None with `others` is `hidden_matrices()`.
      others: for what is not a matrix; `adamw(learning_rate)` where only `matrices` is given.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `scale_by_soap`.
    """
    inner = chain(
        scale_by_soap(
            b1, b2, shampoo_beta, eps, precondition_frequency, max_dim,
            refresh_first=refresh_first, whitened=whitened, mu_dtype=mu_dtype,
        ),
        step_with_decay(learning_rate, weight_decay, mask, stepped=True, first_step=int(not refresh_first)),
    )  # fmt: skip
    return with_others(inner, learning_rate, others, others_rate, matrices)
