"""AdaMuon: Muon's step with Adam's second moment of the orthogonal factor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Iterations, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import abs_sq, bounded, safe_sqrt, size_root
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, second_moment
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.linalg import newton_schulz
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._orthogonalize import check_table
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class AdaMuonState(NamedTuple):
    """The averaged gradient, and the averaged square of its orthogonal factor."""

    mu: Mean
    nu: Square


def adamuon_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements."""
    return {"c1": 1 - b1, "c2": 1 - b2}


def adamuon_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any, *, signed: bool, table: Any, steps: Any, dtype: Any
) -> tuple[jax.Array, ...]:
    """Si, Zhang & Shen 2025."""
    mu = s.b1 * mu + s.c1 * bounded(g) + (g - g)  # NaN where it is not finite
    o = newton_schulz(jnp.sign(mu) if signed else mu, table, steps, dtype=dtype)
    nu = s.b2 * nu + s.c2 * abs_sq(o)
    y = o / (safe_sqrt(nu) + s.eps)
    norm = safe_sqrt(jnp.sum(abs_sq(y)))
    return s.rms * size_root(y.size) * y / jnp.where(norm > 0, norm, 1), mu, nu


@transformation
def scale_by_adamuon(
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    eps: Positive = 1e-8,
    rms: NonNegative = 0.2,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    *,
    signed: bool = True,
    matrices: Any = None,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> Pair:
    """Divides the orthogonal factor of the momentum's signs by the root of its averaged square.

        mu = b1 * mu + (1 - b1) * g
        o = newton_schulz(sign(mu))
        nu = b2 * nu + (1 - b2) * o^2
        y = o / (sqrt(nu) + eps)
        u = rms * sqrt(y.size) * y / norm(y)

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1); in the paper it is b1.
      eps: added to the root, > 0.
      rms: the root mean square of an update, >= 0; 0.2 is typical of AdamW, so that its rates fit.
      ns_coeffs: a name in `linalg.NEWTON_SCHULZ_TABLES`.
      ns_steps: the table's length by default.
      signed: False takes the factor of the momentum itself, as the paper's first version did.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.
      mu_dtype: dtype of the momentum; the parameters' by default.
      ns_dtype: dtype of the products, such as bfloat16; float32 at least by default.

    Raises ValueError for a leaf that is not a matrix, and inside `shard_map` for pieces of one.
    Source: Si, Zhang & Shen 2025, arXiv:2507.11005.
    """
    check_table("scale_by_adamuon", ns_coeffs)
    rule = specialize(adamuon_rule, signed=signed, table=ns_coeffs, steps=ns_steps, dtype=ns_dtype)

    def init(params: Params) -> OptState:
        require_matrices(matrices, params)
        return AdaMuonState(first_moment(params, mu_dtype), second_moment(params))

    def update(
        updates: Updates, state: AdaMuonState, params: Params | None = None
    ) -> tuple[Updates, AdaMuonState]:
        axes = require_matrices(matrices, updates if params is None else params)
        check_like("updates", updates, "state", state.mu)
        trees = (updates, state.mu, state.nu)
        u, mu, nu = per_matrix(rule, axes, trees, adamuon_scalars, b1=b1, b2=b2, eps=eps, rms=rms)
        return u, AdaMuonState(mu, nu)

    return init, update


@transformation
def adamuon(
    learning_rate: Rate,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    rms: NonNegative = 0.2,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    signed: bool = True,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """AdaMuon for hidden matrices, AdamW for all else.

        matrices:  u = -learning_rate * (scale_by_adamuon(g) + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule; one that fits AdamW.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay matrices.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is `adamw(learning_rate)`.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `scale_by_adamuon`.
    """
    inner = chain(
        scale_by_adamuon(
            b1, b2, eps, rms, ns_coeffs, ns_steps, signed=signed, mu_dtype=mu_dtype, ns_dtype=ns_dtype
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return for_matrices(inner, others, matrices, others_rate=others_rate)
