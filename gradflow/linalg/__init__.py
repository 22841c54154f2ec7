"""Matrix functions that optimizers are built from.

They consist mainly of matrix products, so they run fast where decompositions are slow. Below float32
the arithmetic is float32; results have the dtype of their argument.
"""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.linalg._inverse_root import matrix_inverse_pth_root as matrix_inverse_pth_root
from gradflow.linalg._newton_schulz import NEWTON_SCHULZ_SAFETY as NEWTON_SCHULZ_SAFETY
from gradflow.linalg._newton_schulz import NEWTON_SCHULZ_TABLES as NEWTON_SCHULZ_TABLES
from gradflow.linalg._newton_schulz import newton_schulz as newton_schulz
from gradflow.linalg._nnls import nnls as nnls
from gradflow.linalg._power_iteration import power_iteration as power_iteration
from gradflow.linalg._refresh import refresh as refresh

__all__ = [
    "NEWTON_SCHULZ_SAFETY",
    "NEWTON_SCHULZ_TABLES",
    "matrix_inverse_pth_root",
    "newton_schulz",
    "nnls",
    "power_iteration",
    "refresh",
]

_with_hints(__name__)
