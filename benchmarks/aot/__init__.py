"""Steps compiled for an H100 and a TPU v5e that are not there, gradflow beside Optax.

XLA compiles ahead of time for a described device, so nothing here runs and nothing is timed. The figures
come from the compilers themselves: scratch memory, kernels, copies, library calls, the bytes that the
kernels read and write, and on a TPU the compiler's estimate of cycles. They compare programs; they do not
replace a measurement.
"""

from benchmarks.aot.bars import EXCESS, EXCESS_ON_GPU, NOT_ELEMENTWISE
from benchmarks.aot.cases import GROUPS, MAIN, Group, lowered, names, outer, pair, transformer
from benchmarks.aot.platforms import PLATFORMS, Compiler, missing
from benchmarks.aot.results import stored_peers
from benchmarks.aot.rows import Figures, Row, figures, measured

__all__ = [
    "EXCESS", "EXCESS_ON_GPU", "GROUPS", "MAIN", "NOT_ELEMENTWISE", "PLATFORMS", "Compiler", "Figures",
    "Group", "Row", "figures", "lowered", "measured", "missing", "names", "outer", "pair", "stored_peers",
    "transformer",
]  # fmt: skip
