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
    """What is chosen for right numbers, fewer bytes or less memory: at most so many times the peer's.

    With the peer's way in its place a row takes the peer's kernels and cycles, as `tests/aot` shows.
    """

    cycles: float
    why: str
    kernels: float = 1.0
    copies: int = 0


_NORM = "its sum of squares is infinite from 1.8e19 and 0 below 1e-19; a norm has three sums here"
_AHEAD = ", after which fewer gradients are read ahead, whose cycles are not counted"
_MOMENT = "its average of squares is infinite after a gradient of 1.8e19, and later updates are 0"
_TRACE = "its sum is infinite for good after four gradients of 1e38 in a row"
_ROOT = "a Newton step gives its cube root all digits; " + _MOMENT
_ESTIMATE = "an estimate of the curvature that is NaN would stay in its average"
_AT_ONCE = "sums beside the products are 8 kernels less, but take 5 % more cycles and 14 % more bytes"
_SUM = (
    "a sum in a kernel of its own moves as many bytes here, and takes two thirds of the cycles where no "
    "product makes the gradients"
)
EXCESS: Mapping[tuple[str, str], Excess] = {
    ("rules", "clip + adamw"): Excess(1.0115, _NORM),
    ("bfloat16", "clip + adamw"): Excess(1.0155, _NORM),
    ("transformer", "clip + adamw"): Excess(1.0080, _NORM),
    ("rules", "normalize_by_update_norm + adamw"): Excess(1.0120, _NORM),
    ("rules", "adaptive_grad_clip + adamw"): Excess(1.0180, _NORM),
    ("rules", "dog"): Excess(1.0230, _NORM),
    ("rules", "dowg"): Excess(1.0150, _NORM),
    ("rules", "polyak_sgd"): Excess(1.0475, _NORM),
    ("rules", "sgd momentum"): Excess(1.0080, _TRACE),
    ("rules", "rmsprop"): Excess(1.0075, _MOMENT),
    ("rules", "adopt"): Excess(1.0075, _MOMENT),
    ("rules", "madgrad"): Excess(1.0122, _ROOT),
    ("rules", "sophia"): Excess(1.0078, _ESTIMATE),
    ("many", "rmsprop"): Excess(1.0080, _MOMENT),
    ("many", "adagrad"): Excess(1.0055, _MOMENT),
    ("many", "clip_by_block_rms + adamw"): Excess(1.0120, _NORM),
    ("many", "dog"): Excess(1.0650, _NORM + _AHEAD),
    ("many", "dowg"): Excess(1.0335, _NORM + _AHEAD),
    ("many", "sm3"): Excess(
        1.005, "sums of rows and columns, 4096 bytes each; Optax's are copied, too", 1.0, 36
    ),
    ("network", "clip + adamw"): Excess(1.0, _AT_ONCE, 1.26),
    ("network", "MultiSteps(adamw, 4)"): Excess(1.0, _SUM, 1.41),
}

# On a GPU, whose compiler estimates no cycles.
EXCESS_ON_GPU: Mapping[tuple[str, str], Excess] = {
    ("rules", "muon"): Excess(
        1.0, "one leaf after the other holds 0.38 models; side by side they share kernels, and hold 2.9", 1.53
    ),
    ("rules", "galore"): Excess(
        1.0,
        "a refresh, once in 200 steps, brings its numbers into range, gives vectors a sign, and keeps the "
        "old basis where the new one is not finite",
        2.68,
        8,
    ),
}


def misses(row: Row) -> list[str]:
    """The bars that a row misses."""
    missed = []
    ours, peer = row.ours, row.peer
    if ours.scratch > peer.scratch + row.model / 50:
        missed.append("scratch")
    alone = row.group in ("rules", "many", "bfloat16") and row.name not in NOT_ELEMENTWISE
    if alone and ours.scratch > row.largest_leaf * 1.02 + row.model / 50:
        missed.append("leaf")
    excess = _excess(row) or Excess(1.005, "")
    if ours.cost.kernels > excess.kernels * peer.cost.kernels:
        missed.append("kernels")
    # A network's products hide most of the reads, whose cycles are then not counted.
    if row.group != "network" and ours.cost.cycles > excess.cycles * peer.cost.cycles:
        missed.append("cycles")
    if ours.cost.copies > (peer.cost.copies if row.group == "network" else excess.copies):
        missed.append("copies")
    return missed


def _excess(row: Row) -> Excess | None:
    """What a row may take; with many leaves as much as with few, unless it says otherwise."""
    chosen = EXCESS if row.ours.cost.cycles else EXCESS_ON_GPU
    few = "rules" if row.group == "many" else row.group
    return chosen.get((row.group, row.name)) or chosen.get((few, row.name))


def paid(row: Row) -> str:
    """What a row's cycles or kernels beyond the peer's pay for."""
    excess = _excess(row)
    if not excess or misses(row):
        return ""
    if row.ours.cost.kernels > row.peer.cost.kernels:
        return f"(kernels: {excess.why})"
    return f"(cycles: {excess.why})" if row.ours.cost.cycles > 1.005 * row.peer.cost.cycles else ""
