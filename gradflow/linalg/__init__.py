"""Matrix functions that optimizers are built from.

Everything here multiplies matrices and little else, so it runs where decompositions are slow. Below
float32 the arithmetic is float32; results have their argument's dtype.
"""

from gradflow.linalg._inverse_root import matrix_inverse_pth_root as matrix_inverse_pth_root
from gradflow.linalg._newton_schulz import NEWTON_SCHULZ_SAFETY as NEWTON_SCHULZ_SAFETY
from gradflow.linalg._newton_schulz import NEWTON_SCHULZ_TABLES as NEWTON_SCHULZ_TABLES
from gradflow.linalg._newton_schulz import newton_schulz as newton_schulz
from gradflow.linalg._nnls import nnls as nnls
from gradflow.linalg._power_iteration import power_iteration as power_iteration
from gradflow.linalg._refresh import refresh as refresh
