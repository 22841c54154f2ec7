"""Penalties and sets as values, with their proximal operators.

`penalty(params, step)` is `argmin_p |p - params|^2 / 2 + step * amount(p)`, and `penalty.amount(params)` the
penalty itself. `proximal(tx, penalty)` applies one after any optimizer, `fista(penalty)` is accelerated
proximal gradient descent, and `minimize(f, params, prox=penalty)` solves.

- Every leaf has the penalty; `None` leaves stay `None`. Groups and signals never cross leaves.
- Weights may be traced and batched. Leaves keep their dtype; below float32 the arithmetic is float32.
- NaN stays NaN. Derivatives at a kink are those of the side where numbers are zero.
"""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.proximals._elements import box_constraint as box_constraint
from gradflow.proximals._elements import elastic_net_penalty as elastic_net_penalty
from gradflow.proximals._elements import l1_penalty as l1_penalty
from gradflow.proximals._elements import nonnegative_l1_penalty as nonnegative_l1_penalty
from gradflow.proximals._elements import ridge_penalty as ridge_penalty
from gradflow.proximals._groups import group_lasso_penalty as group_lasso_penalty
from gradflow.proximals._groups import nuclear_norm_penalty as nuclear_norm_penalty
from gradflow.proximals._groups import sparse_group_lasso_penalty as sparse_group_lasso_penalty
from gradflow.proximals._groups import total_variation_penalty as total_variation_penalty
from gradflow.proximals._penalty import Penalty as Penalty
from gradflow.proximals._penalty import PenaltyRule as PenaltyRule
from gradflow.proximals._penalty import penalty as penalty

__all__ = [
    "Penalty",
    "PenaltyRule",
    "box_constraint",
    "elastic_net_penalty",
    "group_lasso_penalty",
    "l1_penalty",
    "nonnegative_l1_penalty",
    "nuclear_norm_penalty",
    "penalty",
    "ridge_penalty",
    "sparse_group_lasso_penalty",
    "total_variation_penalty",
]

_with_hints(__name__)
