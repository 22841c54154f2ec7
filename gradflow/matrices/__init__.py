"""Matrices among the leaves: which axes are rows and columns, which leaves count, and one rule over them all.

    soap(3e-3, matrices=hidden_matrices())
    muon(0.02, muon_weight_dimension_numbers=choose_matrices({"**/qkv/kernel": Matrix(split={1: 3})}))

An author of a rule resolves such a choice with `resolve_matrices` and applies the rule with `per_matrix`.
"""

from gradflow.matrices._choice import MatrixChoice as MatrixChoice
from gradflow.matrices._choice import choose_matrices as choose_matrices
from gradflow.matrices._choice import hidden_matrices as hidden_matrices
from gradflow.matrices._matrix import WHOLE as WHOLE
from gradflow.matrices._matrix import Matrix as Matrix
from gradflow.matrices._matrix import MatrixAxes as MatrixAxes
from gradflow.matrices._per_matrix import per_matrix as per_matrix
from gradflow.matrices._resolve import require_matrices as require_matrices
from gradflow.matrices._resolve import resolve_matrices as resolve_matrices
from gradflow.matrices._state_per_matrix import init_per_matrix as init_per_matrix

__all__ = [
    "WHOLE",
    "Matrix",
    "MatrixAxes",
    "MatrixChoice",
    "choose_matrices",
    "hidden_matrices",
    "init_per_matrix",
    "per_matrix",
    "require_matrices",
    "resolve_matrices",
]
