"""The picture of a comparison. Colours for the colour-blind, dashes and markers for black and white."""

import math
from typing import Any, NamedTuple

import numpy as np

from gradflow.lab._optional import optional
from gradflow.lab._result import Comparison, Entry
from gradflow.lab._table import steps_cell

# Okabe & Ito 2008, without the yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvP*X<>hp"
_MOST_BANDS = 4  # with more lines the bands over seeds hide one another


def _style(i: int) -> dict[str, Any]:
    # 7 colours, 5 dashes and 12 markers: all three repeat together only after 420 lines.
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def plot(comparison: Comparison) -> Any:
    """Left: the training loss by step at each optimizer's best rate. Right: the final loss by rate."""
    figure_module = optional("matplotlib.figure", "the picture")
    figure = figure_module.Figure(figsize=(13, 5.5), layout="constrained")
    curves, rates = figure.subplots(1, 2)
    _draw_curves(curves, comparison)
    _draw_rates(rates, comparison)
    handles, labels = curves.get_legend_handles_labels()
    if handles:
        title = "rank: median steps to target" if comparison.target is not None else "rank"
        figure.legend(
            handles, labels, loc="outside right center", title=title, fontsize=9, handlelength=4.5,
            frameon=False,
        )  # fmt: skip
    return figure


class _Limits(NamedTuple):
    """The part of the losses that is drawn; on a logarithmic axis where none is negative."""

    low: float
    top: float
    log: bool


def _limits(comparison: Comparison) -> _Limits:
    """From the least of the losses to draw, seven decades down at most, to just above the starting one."""
    runs = [np.asarray(entry.losses) for entry in comparison.entries]
    starts = [value for run in runs for value in run[..., 0].ravel() if math.isfinite(value)]
    start = max(starts, default=1.0)
    top = start + 0.5 * abs(start)
    drawn = [value for run in runs for value in _quantile(run, 0.5, axis=1).ravel() if math.isfinite(value)]
    if comparison.target is not None:
        drawn.append(comparison.target)
    low = min(drawn, default=0.1 * top)
    if low >= 0 and top > 0:
        return _Limits(max(low, 1e-7 * top), top, log=True)
    return _Limits(low, top if top > low else low + 1, log=False)


def _scale(axis: Any, limits: _Limits) -> None:
    low, top, log = limits
    if log:
        axis.set_yscale("log")
        axis.set_ylim(low * (low / top) ** 0.03, top * (top / low) ** 0.03)
    else:
        axis.set_ylim(low - 0.03 * (top - low), top + 0.03 * (top - low))


def _quantile(runs: np.ndarray, which: float, axis: int = 0) -> np.ndarray:
    """Over seeds, a loss that is no number being the worst of all."""
    worst = np.where(np.isfinite(runs), runs, np.inf)
    found: np.ndarray = np.quantile(worst, which, axis=axis, method="nearest")
    return found


def _drawable(values: np.ndarray, limits: _Limits) -> np.ndarray:
    """Values within reach of the picture: a line leaves it at the top, and rests on its bottom."""
    above = 1e3 * limits.top if limits.log else 3 * limits.top - 2 * limits.low
    return np.clip(values, limits.low, above)


def _draw_curves(axis: Any, comparison: Comparison) -> None:
    at, limits = comparison.evaluated_at, _limits(comparison)
    banded = len(comparison.seeds) > 1 and len(comparison.entries) <= _MOST_BANDS
    for i, entry in enumerate(comparison.entries):
        runs = np.asarray(entry.losses[entry.best])
        style = _style(i)
        label = f"{i + 1}. {entry.name}: {steps_cell(entry, comparison.target)}"
        every = max(1, len(at) // 8)
        middle = _drawable(_quantile(runs, 0.5), limits)
        axis.plot(at, middle, label=label, markevery=(i % every, every), **style)
        if banded:
            ends = [_drawable(_quantile(runs, which), limits) for which in (0.0, 1.0)]
            axis.fill_between(at, *ends, color=style["color"], alpha=0.15, linewidth=0)
    if comparison.target is not None:
        axis.axhline(comparison.target, color="0.4", linewidth=1)
        axis.annotate(
            f"target {comparison.target:g}", (1, comparison.target), xycoords=("axes fraction", "data"),
            annotation_clip=True, xytext=(-4, 4), textcoords="offset points", ha="right", fontsize=9,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    _scale(axis, limits)
    axis.set(xlabel="step", ylabel=f"training loss (median{' and range' if banded else ''} over seeds)")
    axis.set_title(f"{comparison.task}: each at its best learning rate")
    axis.grid(alpha=0.25)


def _draw_rates(axis: Any, comparison: Comparison) -> None:
    limits = _limits(comparison)
    tried = [rate for e in comparison.entries for rate in e.learning_rates if rate is not None]
    for i, entry in enumerate(comparison.entries):
        style = _style(i)
        middle = _final(entry, limits)
        gone = [sum(row) > len(row) / 2 for row in entry.diverged]
        if entry.learning_rates == [None]:
            # Run as it is: a level line, for it has no rate.
            axis.axhline(middle[0], **{**style, "marker": ""})
            continue
        axis.plot(entry.learning_rates, middle, **style)
        lost = [(rate, y) for rate, y, bad in zip(entry.learning_rates, middle, gone, strict=True) if bad]
        if lost:
            axis.plot(*zip(*lost, strict=True), linestyle="", marker="x", color="black", markersize=9)
    _scale(axis, limits)
    if tried:
        axis.set_xscale("log")
    else:
        axis.set_xticks([])
    if any(bad for e in comparison.entries for row in e.diverged for bad in row):
        axis.plot([], [], linestyle="", marker="x", color="black", markersize=9, label="most seeds diverged")
        axis.legend(loc="best", fontsize=9)
    axis.set(xlabel="learning rate", ylabel="final training loss (median over seeds)")
    axis.set_title(f"after {comparison.steps} steps, by learning rate")
    axis.grid(alpha=0.25, which="major")


def _final(entry: Entry, limits: _Limits) -> list[float]:
    """The median final loss for each rate; a run that diverged is at the top of the picture."""
    low, top, _ = limits
    rows = zip(entry.final_loss, entry.diverged, strict=True)
    middle = [np.median([top if bad else v for v, bad in zip(*row, strict=True)]) for row in rows]
    return [float(min(max(value, low), top)) for value in middle]
