"""The orthogonal factor of each matrix of the updates, whatever they are."""

from typing import Any

import jax

from gradflow._core._decorators import transformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Iterations, Positive
from gradflow._rules._leafwise import specialize
from gradflow._types import EmptyState, Pair, Params, Updates
from gradflow.linalg import NEWTON_SCHULZ_TABLES, newton_schulz
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices


def orthogonalize_rule(x: jax.Array, s: Any, *, table: Any, steps: int | None, dtype: Any) -> jax.Array:
    """u = U V^T, nearly, for x = U S V^T."""
    return newton_schulz(x, table, steps, eps=s.eps, dtype=dtype)


def check_table(owner: str, ns_coeffs: Any) -> None:
    """Raises ValueError for what is not the name of a table of coefficients."""
    if not isinstance(ns_coeffs, str) or ns_coeffs not in NEWTON_SCHULZ_TABLES:
        raise ValueError(
            f"{owner}: argument 'ns_coeffs' must be one of {', '.join(NEWTON_SCHULZ_TABLES)}; "
            f"got {describe(ns_coeffs)}"
        )


@transformation
def orthogonalize(
    ns_coeffs: str = "quintic",
    ns_steps: Iterations | None = None,
    eps: Positive = 1e-7,
    *,
    matrices: Any = None,
    ns_dtype: Any = None,
) -> Pair:
    """Replaces each matrix `U S V^T` of the updates by its orthogonal factor, nearly `U V^T`.

        chain(trace(0.95), orthogonalize(), scale_by_learning_rate(0.02))

    Args:
      ns_coeffs: a name in `linalg.NEWTON_SCHULZ_TABLES`. "quintic" converges, "keller" is faster.
      ns_steps: the table's length by default.
      eps: added to the Frobenius norm by which a matrix is divided first, > 0.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.
      ns_dtype: dtype of the products, such as bfloat16; float32 at least by default.

    Raises ValueError for a leaf that is not a matrix, and inside `shard_map` for pieces of one.
    """
    check_table("orthogonalize", ns_coeffs)
    rule = specialize(orthogonalize_rule, table=ns_coeffs, steps=ns_steps, dtype=ns_dtype)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        axes = require_matrices(matrices, updates if params is None else params)
        return per_matrix(rule, axes, (updates,), eps=eps)[0], state

    def init(params: Params) -> EmptyState:
        require_matrices(matrices, params)  # a leaf that is not a matrix is refused before training
        return EmptyState()

    return init, update
