"""The picture of a comparison."""

from typing import Any

import numpy as np

from gradflow.lab._plots._cells import format_number
from gradflow.lab._plots._comparison_table import steps_cell
from gradflow.lab._plots._style import Limits, grid, new_figure, sparse, style
from gradflow.lab._results._comparison import Comparison, Entry
from gradflow.lab._results._result import draw
from gradflow.lab._results._statistics import quantile

_MOST_BANDS = 4  # with more lines the bands over seeds cover each other


@draw.register
def plot(comparison: Comparison) -> Any:
    """Left: the training loss by step at each optimizer's best rate. Right: the final loss by rate."""
    figure = new_figure(10, 4.8 + 0.1 * len(comparison.entries))
    curves, rates = figure.subplots(1, 2)
    _draw_curves(curves, comparison)
    _draw_rates(rates, comparison)
    handles, labels = curves.get_legend_handles_labels()
    if handles:
        title = "rank: median steps to target" if comparison.target is not None else "rank: median final loss"
        figure.legend(
            handles, labels, loc="outside lower center", title=title, fontsize=9, handlelength=4.5,
            ncols=2, frameon=False,
        )  # fmt: skip
    return figure


def _limits(comparison: Comparison) -> Limits:
    """From the lowest of the drawn losses, or the target, to just above the starting loss."""
    runs = [np.asarray(entry.losses) for entry in comparison.entries]
    starts = np.concatenate([np.ravel(run[..., 0]) for run in runs]) if runs else np.ones(1)
    drawn = [quantile(run, 0.5, axis=1).ravel() for run in runs]
    target = [] if comparison.target is None else [comparison.target]
    return Limits.of(starts, np.concatenate([*drawn, np.asarray(target, float)]))


def _draw_curves(axis: Any, comparison: Comparison) -> None:
    at, limits = comparison.evaluated_at, _limits(comparison)
    banded = len(comparison.seeds) > 1 and len(comparison.entries) <= _MOST_BANDS
    for i, entry in enumerate(comparison.entries):
        runs = np.asarray(entry.losses[entry.best])
        look = style(i)
        label = f"{i + 1}. {entry.name}: {_result_of(entry, comparison.target)}"
        middle = limits.drawable(quantile(runs, 0.5))
        axis.plot(at, middle, label=label, markevery=sparse(i, len(at)), **look)
        if banded:
            ends = [limits.drawable(quantile(runs, which)) for which in (0.0, 1.0)]
            axis.fill_between(at, *ends, color=look["color"], alpha=0.15, linewidth=0)
    if comparison.target is not None:
        axis.axhline(comparison.target, color="0.4", linewidth=1)
        axis.annotate(
            f"target {comparison.target:g}", (1, comparison.target), xycoords=("axes fraction", "data"),
            annotation_clip=True, xytext=(-4, 4), textcoords="offset points", ha="right", fontsize=9,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    limits.apply(axis)
    axis.set(xlabel="step", ylabel=f"training loss (median{' and range' if banded else ''} over seeds)")
    axis.set_title(f"{comparison.task}: each at its best learning rate")
    grid(axis)


def _result_of(entry: Entry, target: float | None) -> str:
    """What ranks an entry: its steps to the target, or else its final loss."""
    return format_number(entry.rank_key[1]) if target is None else steps_cell(entry)


def _draw_rates(axis: Any, comparison: Comparison) -> None:
    limits = _limits(comparison)
    tried = [rate for e in comparison.entries for rate in e.learning_rates if rate is not None]
    for i, entry in enumerate(comparison.entries):
        look = style(i)
        middle = _final(entry, limits)
        gone = [sum(row) > len(row) / 2 for row in entry.diverged]
        if entry.learning_rates == [None]:
            # Ran unchanged: a horizontal line, since it has no rate.
            axis.axhline(middle[0], **{**look, "marker": ""})
            continue
        axis.plot(entry.learning_rates, middle, **look)
        lost = [(rate, y) for rate, y, bad in zip(entry.learning_rates, middle, gone, strict=True) if bad]
        if lost:
            axis.plot(*zip(*lost, strict=True), linestyle="", marker="x", color="black", markersize=9)
    limits.apply(axis)
    if tried:
        axis.set_xscale("log")
    else:
        axis.set_xticks([])
    if any(bad for e in comparison.entries for row in e.diverged for bad in row):
        axis.plot([], [], linestyle="", marker="x", color="black", markersize=9, label="most seeds diverged")
        axis.legend(loc="best", fontsize=9)
    axis.set(xlabel="learning rate", ylabel="final training loss (median over seeds)")
    axis.set_title(f"after {comparison.steps} steps, by learning rate")
    grid(axis)


def _final(entry: Entry, limits: Limits) -> list[float]:
    """The median final loss for each rate; runs that diverged are drawn at the top of the picture."""
    rows = zip(entry.final_loss, entry.diverged, strict=True)
    middle = [np.median([limits.top if bad else v for v, bad in zip(*row, strict=True)]) for row in rows]
    return [limits.inside(float(value)) for value in middle]
