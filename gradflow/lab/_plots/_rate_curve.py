"""The picture of `rate_finder`."""

import math
from typing import Any

import numpy as np

from gradflow._expressions._printing import shorten
from gradflow.lab._plots._style import COLORS, Limits, grid, new_figure
from gradflow.lab._results._rate_curve import RateCurve
from gradflow.lab._results._result import draw


@draw.register
def plot(result: RateCurve) -> Any:
    """The figure of a `RateCurve`."""
    figure = new_figure(7.5, 4.6)
    axis = figure.subplots()
    runs = np.asarray(result.losses)
    first = runs[:, :5]
    limits = Limits.of(first, np.asarray([v for v in result.smoothed if math.isfinite(v)]))
    for i, run in enumerate(runs):
        label = "a seed's batches" if i == 0 else None
        axis.plot(result.learning_rates, limits.drawable(run), color="0.75", linewidth=0.8, label=label)
    axis.plot(
        result.learning_rates, limits.drawable(np.asarray(result.smoothed)), color=COLORS[0], linewidth=2.2,
        label="smoothed median",
    )  # fmt: skip
    marks = [("steepest", result.steepest, "o", COLORS[1]), ("lowest", result.lowest, "s", COLORS[2])]
    for name, rate, marker, color in marks:
        if rate is not None:
            height = limits.inside(result.smoothed[result.learning_rates.index(rate)])
            axis.plot(
                [rate], [height], marker, color=color, markersize=10, markeredgecolor="black",
                label=f"{name}: {rate:.2g}", zorder=4, linestyle="",
            )  # fmt: skip
    if result.suggestion is not None:
        axis.axvline(result.suggestion, color="0.3", linestyle="--", linewidth=1, label="suggestion")
    limits.apply(axis)
    axis.set_xscale("log")
    axis.set(xlabel="learning rate, rising by the step", ylabel="training loss of the batch")
    axis.set_title(f"{result.task}: {shorten(result.optimizer, 60)}")
    axis.legend(fontsize=9)
    grid(axis)
    return figure
