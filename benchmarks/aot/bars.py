"""What a row is to reach, and where right numbers cost more."""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.aot.rows import Row

# Statistics of whole leaves, factors or random numbers: they may hold more than one leaf of scratch.
NOT_ELEMENTWISE = {
    "adafactor", "adaptive_grad_clip + adamw", "centralize + adamw", "clip_by_block_rms + adamw", "fromage",
    "galore", "lamb", "lars", "muon", "noisy_sgd", "novograd", "scale_by_trust_ratio", "sm3", "sophia",
    "add_noise + adamw",
}  # fmt: skip


class Excess(NamedTuple):
    """Cycles that right numbers cost on a TPU: at most so many times the peer's, and what they pay for.

    With the peer's arithmetic in its place a row takes at most the peer's cycles, as `tests/aot` shows.
    """

    cycles: float
    why: str


_NORM = "its sum of squares is infinite from 1.8e19 and 0 below 1e-19; a norm has three sums here"
_MOMENT = "its average of squares is infinite after a gradient of 1.8e19, and later updates are 0"
EXCESS: Mapping[tuple[str, str], Excess] = {
    ("rules", "clip + adamw"): Excess(1.0115, _NORM),
    ("bfloat16", "clip + adamw"): Excess(1.0155, _NORM),
    ("transformer", "clip + adamw"): Excess(1.0080, _NORM),
    ("rules", "normalize_by_update_norm + adamw"): Excess(1.0120, _NORM),
    ("rules", "adaptive_grad_clip + adamw"): Excess(1.0180, _NORM),
    ("rules", "dog"): Excess(1.0230, _NORM),
    ("rules", "dowg"): Excess(1.0150, _NORM),
    ("rules", "polyak_sgd"): Excess(1.0475, _NORM),
    ("rules", "rmsprop"): Excess(1.0075, _MOMENT),
    ("rules", "adopt"): Excess(1.0075, _MOMENT),
}


def misses(row: Row) -> list[str]:
    """The bars that a row misses."""
    missed = []
    ours, peer = row.ours, row.peer
    if ours.scratch > peer.scratch + row.model / 50:
        missed.append("scratch")
    alone = row.group in ("rules", "bfloat16") and row.name not in NOT_ELEMENTWISE
    if alone and ours.scratch > row.largest_leaf * 1.02 + row.model / 50:
        missed.append("leaf")
    if ours.cost.kernels > peer.cost.kernels:
        missed.append("kernels")
    # A network's products hide most of the reads, whose cycles are then not counted.
    excess = EXCESS.get((row.group, row.name))
    if row.group != "network" and ours.cost.cycles > (excess.cycles if excess else 1.005) * peer.cost.cycles:
        missed.append("cycles")
    if ours.cost.copies > (peer.cost.copies if row.group == "network" else 0):
        missed.append("copies")
    return missed


def paid(row: Row) -> str:
    """What a row's cycles beyond the peer's pay for."""
    excess = EXCESS.get((row.group, row.name))
    return f"(cycles: {excess.why})" if excess and row.ours.cost.cycles > 1.005 * row.peer.cost.cycles else ""
