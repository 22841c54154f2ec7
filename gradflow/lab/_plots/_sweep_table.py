"""The trials of a sweep as a table."""

import math

from gradflow._expressions._printing import shorten
from gradflow._tables import Table
from gradflow.lab._candidates._search_space import is_number
from gradflow.lab._plots._cells import format_number, format_value
from gradflow.lab._results._result import tabulate
from gradflow.lab._results._sweep import SweepResult, Trial


@tabulate.register
def table(result: SweepResult, top: int = 10) -> Table:
    """The best trials: a line with the settings, then a line for each trial."""
    r = result
    whose = "1 seed" if len(r.seeds) == 1 else f"{len(r.seeds)} seeds"
    head = f"{r.task}: {count(r.trials)} of {shorten(r.brief)}, {r.method}, {r.steps} steps, {whose}"
    if not r.trials:
        return Table(head, (), (), (), ["no trial was finished"])
    score = [] if r.score_name is None else [r.score_name]
    names = ["", *r.space, "final loss", *score, "steps", "diverged"]
    rows = [_row(i + 1, trial, result) for i, trial in enumerate(r.trials[:top])]
    lost = sum(math.isinf(trial.final_loss) for trial in r.trials)
    notes = [f"... and {len(r.trials) - top} more."] if len(r.trials) > top else []
    if lost:
        notes.append(f"{lost} of {len(r.trials)} trials diverged.")
    ends = [name for name in r.space if _is_at_the_end(result, name)]
    if ends:
        notes.append(f"The best is at the end of the range of {', '.join(ends)}: beyond it may be better.")
    notes.append(f"Best: {r.best_expression}")
    return Table(head, names, rows, (), notes)


def count(trials: list[Trial]) -> str:
    """The number of trials, with its noun."""
    return "1 trial" if len(trials) == 1 else f"{len(trials)} trials"


def _row(rank: int, trial: Trial, result: SweepResult) -> list[str]:
    score = [] if result.score_name is None else [format_number(trial.final_score)]
    return [
        str(rank),
        *(format_value(trial.values[name]) for name in result.space),
        format_number(trial.final_loss),
        *score,
        str(trial.steps),
        f"{sum(trial.diverged)} of {len(trial.diverged)}",
    ]


def _is_at_the_end(result: SweepResult, name: str) -> bool:
    """Whether the best value is the least or the greatest number of a grid's axis."""
    values = result.space[name]
    if isinstance(values, dict):
        best = result.best.values[name]
        return result.method == "grid" and best in (values["low"], values["high"])
    numbers = [v for v in values if is_number(v)]
    return len(numbers) == len(values) > 2 and result.best.values[name] in (min(numbers), max(numbers))
