"""Dion2: Muon that orthogonalizes a part of the rows at each step, and lets only these decay."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Iterations, NonNegative, Rate
from gradflow._rules._leafwise import specialize
from gradflow._rules._math import kept_in_range
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.linalg import newton_schulz
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._kronecker import to_unit
from gradflow.optimizers._orthogonalize import check_table
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class Dion2State(NamedTuple):
    """The sum of the gradients, less what was used of it."""

    mu: Mean


def dion2_rule(
    g: jax.Array, mu: jax.Array, s: Any, *, fraction: float, table: Any, steps: Any, dtype: Any
) -> tuple[jax.Array, ...]:
    """Ahn, Amsel & Langford 2025, over the slices along the shorter side."""
    inputs, outputs = g.shape
    m = kept_in_range(mu + g, g)
    m = m if inputs <= outputs else m.T
    sizes = jnp.sum(jnp.abs(to_unit(m)[0]), axis=1)
    _, chosen = jax.lax.top_k(sizes, math.ceil(fraction * m.shape[0]))
    part = m[chosen]
    orthogonal = math.sqrt(outputs / inputs) * newton_schulz(part, table, steps, dtype=dtype)
    zeros = jnp.zeros_like(m) + jnp.sum(m * 0)  # NaN shows in the other rows too
    u, m = zeros.at[chosen].set(orthogonal), m.at[chosen].set(s.decay * part)
    return (u, m) if inputs <= outputs else (u.T, m.T)


@transformation
def scale_by_dion2(
    fraction: float = 0.25,
    decay: Decay = 0.95,
    ns_coeffs: str = "polar_express",
    ns_steps: Iterations | None = None,
    *,
    matrices: Any = None,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> Pair:
    """Takes the orthogonal factor of the largest rows of the momentum, and leaves the others for later.

        mu = mu + g
        rows = the ceil(fraction * n) rows of mu with the largest sums of absolute values
        u[rows] = sqrt(outputs / inputs) * newton_schulz(mu[rows]), 0 elsewhere
        mu[rows] = decay * mu[rows]

    Rows are those of the shorter side: columns of a matrix with more rows than columns.

    Args:
      fraction: of the rows at each step, in (0, 1]; it is part of the program and cannot be traced.
      decay: what stays of rows that were used, in [0, 1).
      ns_coeffs: a name in `linalg.NEWTON_SCHULZ_TABLES`.
      ns_steps: the table's length by default.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.
      mu_dtype: dtype of the momentum; the parameters' by default.
      ns_dtype: dtype of the products, such as bfloat16; float32 at least by default.

    Raises ValueError for a leaf that is not a matrix, and inside `shard_map` for pieces of one.
    Source: Ahn, Amsel & Langford 2025, arXiv:2512.16928.
    """
    check_table("scale_by_dion2", ns_coeffs)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(
            f"scale_by_dion2: argument 'fraction' must be a number in (0, 1]; got {describe(fraction)}"
        )
    rule = specialize(dion2_rule, fraction=fraction, table=ns_coeffs, steps=ns_steps, dtype=ns_dtype)

    def init(params: Params) -> OptState:
        require_matrices(matrices, params)
        return Dion2State(first_moment(params, mu_dtype))

    def update(
        updates: Updates, state: Dion2State, params: Params | None = None
    ) -> tuple[Updates, Dion2State]:
        axes = require_matrices(matrices, updates if params is None else params)
        check_like("updates", updates, "state", state.mu)
        u, mu = per_matrix(rule, axes, (updates, state.mu), decay=decay)
        return u, Dion2State(mu)

    return init, update


@transformation
def dion2(
    learning_rate: Rate,
    fraction: float = 0.25,
    decay: Decay = 0.95,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    ns_coeffs: str = "polar_express",
    ns_steps: Iterations | None = None,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """Dion2 for hidden matrices, AdamW for all else.

        matrices:  u = -learning_rate * (scale_by_dion2(g) + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule; 0.01 in the authors' programs.
      weight_decay: >= 0; 0.01 there. All rows decay.
      mask: tree of booleans, or a function from the parameters to one: where to decay matrices.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is `adamw(learning_rate)`.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `scale_by_dion2`.
    """
    inner = chain(
        scale_by_dion2(fraction, decay, ns_coeffs, ns_steps, mu_dtype=mu_dtype, ns_dtype=ns_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return for_matrices(inner, others, matrices, others_rate=others_rate)
