"""Rows as text."""

import math
from collections.abc import Callable, Sequence

from benchmarks.aot.bars import misses, paid
from benchmarks.aot.rows import Failed, Figures, Row
from benchmarks.rows import markdown_table, padded


def mean(rows: Sequence[Row], of: Callable[[Figures], float]) -> float | None:
    """The geometric mean of gradflow's figure over the peer's; None where a compiler gives none."""
    ratios = [of(row.ours) / of(row.peer) for row in rows if of(row.ours) and of(row.peer)]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


HEADS = (
    "what", "scratch, models", "kernels", "copies", "calls", "moved, times the least", "cycles", "branches",
    "misses",
)  # fmt: skip


def _ratio(ours: float, peer: float) -> str:
    return f"{ours:,.0f} / {peer:,.0f}" + (f" = {ours / peer:.2f}" if peer else "")


def _branches(found: Figures) -> str:
    return ", ".join("|".join(map(str, each)) for each in found.cost.branches)


def cells(row: Row | Failed) -> tuple[str, ...]:
    """The cells of a row; kernels and bytes of a conditional are those of its largest branch."""
    if isinstance(row, Failed):
        return (row.name, "not compiled", *[""] * 6, row.why)
    ours, peer = row.ours, row.peer
    branches = [_branches(ours), _branches(peer)]
    return (
        row.name,
        f"{ours.scratch / row.model:.3g} / {peer.scratch / row.model:.3g}",
        _ratio(ours.cost.kernels, peer.cost.kernels),
        f"{ours.cost.copies} / {peer.cost.copies}",
        f"{ours.cost.calls} / {peer.cost.calls}",
        f"{ours.cost.moved / row.least:.2f} / {peer.cost.moved / row.least:.2f}",
        _ratio(ours.cost.cycles, peer.cost.cycles) if peer.cost.cycles else "",
        " / ".join(each or "-" for each in branches) if any(branches) else "",
        ", ".join(misses(row)) or paid(row),
    )


_WIDTHS = (34, 18, 20, 9, 7, 14, 32, 20, 0)


def line(row: Row | Failed | None) -> str:
    """One line of the table; that of None is its head."""
    return padded(cells(row) if row else HEADS, _WIDTHS)


def markdown(rows: Sequence[Row | Failed]) -> str:
    """A table for each group, and its means."""
    parts = []
    for group in dict.fromkeys(row.group for row in rows):
        inside = [row for row in rows if row.group == group]
        table = markdown_table(HEADS, [cells(row) for row in inside])
        parts.append(f"#### {group}\n\n{table}\n\n{means(inside)}\n")
    return "\n".join(parts)


def means(rows: Sequence[Row | Failed]) -> str:
    """One line: geometric means of the ratios, and how many rows miss a bar."""
    whole = [row for row in rows if isinstance(row, Row)]
    figures: dict[str, Callable[[Figures], float]] = {
        "kernels": lambda f: f.cost.kernels,
        "bytes moved": lambda f: f.cost.moved,
        "cycles": lambda f: f.cost.cycles,
    }
    found = {name: mean(whole, of) for name, of in figures.items()}
    said = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if value is not None)
    missed = sum(bool(misses(row)) for row in whole)
    return f"Geometric means, gradflow / Optax: {said}; {missed} of {len(whole)} rows miss a bar."
