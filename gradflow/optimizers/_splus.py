"""SPlus: the sign of the momentum in the eigenbasis of Shampoo's statistics."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Length, NonNegative, Rate, Size
from gradflow._rules._leafwise import Scalars
from gradflow._rules._roles import Mean, Other
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._refresh_per_matrix import refresh_per_matrix
from gradflow.matrices._resolve import require_matrices
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._kronecker import Factors, decay_factors, eigenvectors, limited, sides, turn
from gradflow.transforms import add_decayed_weights, ema, scale, scale_by_learning_rate, scale_by_sign
from gradflow.wrappers import with_param_ema


class SPlusState(NamedTuple):
    """Calls so far, the momentum, and for each side of a matrix the statistics and their eigenbasis.

    A side without a basis has None.
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    factors: Other
    bases: Other


def splus_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements."""
    return {"c1": 1 - b1, "c2": 1 - b2}


def splus_rule(g: jax.Array, mu: jax.Array, factors: Factors, bases: Factors, s: Any) -> tuple[Any, ...]:
    """Frans, Levine & Abbeel 2025."""
    g, is_finite = limited(g, factors)
    mu = s.b1 * mu + s.c1 * g
    u = turn(jnp.sign(turn(mu, bases)), bases, back=True)
    whole = all(basis is not None for basis in bases)
    factors = decay_factors(g, is_finite, factors, s.b2, s.c2)
    return u * (2 / sum(u.shape) if whole else s.constant), mu, factors


def side_rule(basis: jax.Array, factor: jax.Array, s: Any) -> tuple[jax.Array]:
    """The eigenvectors of a side's statistics."""
    return (eigenvectors(basis, factor),)


@transformation(leaves="real")
def scale_by_splus(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    precondition_frequency: Size = 100,
    max_dim: Length = 10000,
    constant: NonNegative = 1e-3,
    *,
    matrices: Any = None,
    mu_dtype: Any = None,
) -> Pair:
    """Takes the sign of the averaged gradient in the eigenbasis of its averaged outer products.

        mu = b1 * mu + (1 - b1) * g
        u = 2 / (rows + columns) * Q_L @ sign(Q_L^T @ mu @ Q_R) @ Q_R^T
        L = b2 * L + (1 - b2) * g @ g^T;   R likewise of g^T @ g

    After the first step and every `precondition_frequency` steps Q_L and Q_R become the eigenvectors of L and
    R. The first step is that of the sign itself. As the sign bounds the step, an old basis does no harm.

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of L and R, in [0, 1).
      precondition_frequency: steps from one decomposition to the next, >= 1.
      max_dim: a longer side has no statistics and no basis.
      constant: the factor in the place of `2 / (rows + columns)` where a side is longer, >= 0.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.
      mu_dtype: dtype of the momentum; the parameters' by default. The rest is held in float32 at least.

    Raises ValueError for a leaf that is not a matrix, and inside `shard_map` for pieces of one. The authors'
    programs have a quarter of the paper's factor. Source: Frans, Levine & Abbeel 2025, arXiv:2506.07254.
    """
    make = functools.partial(sides, max_dim=max_dim, value=0.0, smallest=1)

    def init(params: Params) -> OptState:
        axes = require_matrices(matrices, params)
        return SPlusState(
            zero_scalar(params),
            first_moment(params, mu_dtype),
            init_per_matrix(make, axes, params),
            init_per_matrix(functools.partial(make, value=1.0), axes, params),
        )

    def update(
        updates: Updates, state: SPlusState, params: Params | None = None
    ) -> tuple[Updates, SPlusState]:
        axes = require_matrices(matrices, updates if params is None else params)
        check_like("updates", updates, "state", state.mu)
        check_per_matrix(make, axes, updates, factors=state.factors, bases=state.bases)
        # What the last step left due. After this one XLA would copy the bases before they are replaced.
        before = state.count
        due = (before == 1) | ((before > 0) & (before % precondition_frequency == 0))
        (bases,) = refresh_per_matrix(
            None, axes, due, updates, (state.bases,), (state.factors,), of_side=side_rule
        )
        u, mu, factors, *_ = per_matrix(
            splus_rule, axes, (updates, state.mu, state.factors, bases), splus_scalars,
            b1=b1, b2=b2, constant=constant,
        )  # fmt: skip
        count = increment(state.count)
        return u, SPlusState(count, mu, factors, bases)

    return init, update


@transformation
def splus(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    weight_decay: NonNegative = 0.0,
    ema_rate: Decay = 0.999,
    precondition_frequency: Size = 100,
    max_dim: Length = 10000,
    mask: MaskOrFn | None = None,
    *,
    constant: NonNegative = 1e-3,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """SPlus for hidden matrices, the sign of the momentum for all else, and an average of the parameters.

        matrices:  u = -learning_rate * (scale_by_splus(g) + weight_decay * p)
        others:    u = -learning_rate * constant * sign(mu)

    Args:
      learning_rate: a number >= 0 or a schedule; 0.1 to 0.2 for transformers of any width.
      weight_decay: >= 0, of matrices.
      ema_rate: decay of the average that `eval_params` returns, in [0, 1); it is what is to be evaluated.
      mask: tree of booleans, or a function from the parameters to one: where to decay.
      constant: as in `scale_by_splus`, and the factor of the others' signs.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is as above.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `scale_by_splus`.
    """
    inner = chain(
        scale_by_splus(b1, b2, precondition_frequency, max_dim, constant, mu_dtype=mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    if others is None:
        signs = (ema(b1, debias=False, accumulator_dtype=mu_dtype), scale_by_sign(), scale(constant))
        others = chain(*signs, scale_by_learning_rate(learning_rate))
    return with_param_ema(for_matrices(inner, others, matrices, others_rate=others_rate), ema_rate)
