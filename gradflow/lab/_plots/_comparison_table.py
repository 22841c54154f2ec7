"""The ranking as a table."""

import math
from collections.abc import Sequence

from gradflow._tables import Table
from gradflow.lab._plots._cells import format_number
from gradflow.lab._results._comparison import Comparison, Entry
from gradflow.lab._results._result import tabulate
from gradflow.lab._results._statistics import FEWEST, median

_MORE = "More seeds and rates (--seeds, --learning-rates) may tell more."


def _spread(values: Sequence[float], show: str) -> str:
    """Formats values as `median (least to most)`, infinity as `never`."""
    low, high = min(values), max(values)
    ends = [format(v, show) if math.isfinite(v) else "never" for v in (low, high)]
    middle = format(median(values), show)
    return middle if low == high else f"{middle} ({ends[0]} to {ends[1]})"


def steps_cell(entry: Entry) -> str:
    """The steps to the target at the best rate, or why there are none."""
    diverged, seeds = sum(entry.diverged[entry.best]), len(entry.diverged[entry.best])
    if diverged == seeds:
        return "diverged"
    note = f"; {diverged} of {seeds} diverged" if diverged else ""
    steps = entry.steps_to_target[entry.best]
    values = [math.inf if s is None else float(s) for s in steps]
    if math.isinf(median(values)):
        reached = len(steps) - steps.count(None)
        return (f"reached by {reached} of {seeds}" if reached else "not reached") + note
    return _spread(values, ".0f") + note


def _row(rank: int, entry: Entry, comparison: Comparison) -> list[str]:
    runs = [bad for row in entry.diverged for bad in row]
    b = entry.best
    return [
        str(rank),
        entry.name,
        *([] if comparison.target is None else [steps_cell(entry)]),
        *(
            []
            if comparison.score_name is None or entry.score is None
            else [format_number(median(entry.score[b]))]
        ),
        format_number(entry.best_rate) + ("*" if entry.best_is_at_the_end else ""),
        format_number(median(entry.final_loss[b])),
        f"{sum(runs)} of {len(runs)}",
        f"{entry.state_bytes_per_parameter:.1f}",
        f"{entry.seconds:.1f} + {entry.compile_seconds:.1f}",
    ]


@tabulate.register
def table(comparison: Comparison) -> Table:
    """The ranking: a line with the settings, then a line for each optimizer."""
    c = comparison
    goal = "no target loss" if c.target is None else f"target: training loss {c.target:g}"
    head = f"{c.task}: {goal}; {c.steps} steps; {len(c.seeds)} seed{'s' if len(c.seeds) > 1 else ''}"
    if not c.entries:
        return Table(head, (), (), (), ["no optimizer was finished"])
    score = [] if c.score_name is None else [c.score_name]
    steps = [] if c.target is None else ["steps to target"]
    names = ["", "optimizer", *steps, *score, "best rate", "final loss", "diverged",
             "state B/param", "seconds + compiling"]  # fmt: skip
    rows = [_row(i + 1, entry, c) for i, entry in enumerate(c.entries)]
    notes = [
        "At each optimizer's best rate: the median over seeds (least to most). Diverged: of all its runs.",
        "Best rate: the fewest median steps to the target, then the lowest median final loss, on these seeds."
        if c.target is not None
        else "Best rate: the lowest median final loss, on these seeds.",
    ]
    fewest = min((len(e.learning_rates) for e in c.entries if len(e.learning_rates) > 1), default=1)
    extended = ", ".join(e.name for e in c.entries if len(e.learning_rates) > fewest)
    if extended:
        notes.append(f"Tried at rates beyond the grid too, since the best was at its end: {extended}.")
    if any(entry.best_is_at_the_end for entry in c.entries):
        notes.append("* the last rate tried on that side: one beyond it may be better (--learning-rates).")
    return Table(head, names, rows, (1, 2) if steps else (1,), [*notes, *_chance(c)])


def _chance(comparison: Comparison) -> list[str]:
    """Notes on whether the order may be chance."""
    if len(comparison.entries) < 2:
        return []
    if len(comparison.seeds) < FEWEST:
        return [f"With fewer than {FEWEST} seeds this order may be chance (--seeds)."]
    pairs = comparison.noise()
    if not pairs:
        effect = comparison.smallest_effect()
        size = f", the smallest of which is {effect}" if effect else ""
        return [
            "The seeds settle the order of all neighbors (95% bootstrap intervals of the differences"
            f"{size}); a finer grid of rates could not change it."
        ]
    best, behind = comparison.entries[0].name, comparison.slower_than_best()
    level = "chance (95% bootstrap over seeds) or a finer grid could explain"
    if not behind:
        return [f"Any of these may be as good as {best}: no difference from it is more than {level}. {_MORE}"]
    equals = [entry.name for entry in comparison.entries[1:] if entry.name not in behind]
    if not equals:
        return [
            f"{best} is ahead of all others, by more than {level}. Their own order may be chance. {_MORE}"
        ]
    return [
        f"May be as good as {best}, so choose by other columns: {', '.join(equals)}. "
        f"Behind it by more than {level}: {', '.join(behind)}. {_MORE}"
    ]
