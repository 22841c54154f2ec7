"""Evaluation of a function of a batch piece by piece, in a loop, to fit in memory.

Piece `i` of `k` holds the rows `i, i + k, i + 2k, ...`: a sharded batch axis stays sharded within every
piece, and no data moves between devices. Results are returned in the original order of rows.
"""

from gradflow.microbatching._accumulate import AccumulationType as AccumulationType
from gradflow.microbatching._accumulate import Accumulator as Accumulator
from gradflow.microbatching._batch import reshape_batch_axis as reshape_batch_axis
from gradflow.microbatching._functions import Aux as Aux
from gradflow.microbatching._functions import micro_grad as micro_grad
from gradflow.microbatching._functions import micro_vmap as micro_vmap
from gradflow.microbatching._functions import microbatch as microbatch

__all__ = [
    "AccumulationType",
    "Accumulator",
    "Aux",
    "micro_grad",
    "micro_vmap",
    "microbatch",
    "reshape_batch_axis",
]
