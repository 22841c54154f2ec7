"""The picture of `schedule_plot`."""

from typing import Any

from gradflow._expressions._printing import shorten
from gradflow.lab._plots._style import grid, new_figure, sparse, style
from gradflow.lab._results._result import draw
from gradflow.lab._results._schedule_curves import ScheduleCurves


@draw.register
def plot(result: ScheduleCurves) -> Any:
    """The figure of a `ScheduleCurves`."""
    figure = new_figure(8.5, 4.4 + 0.2 * len(result.curves))
    axis = figure.subplots()
    for i, (name, values) in enumerate(result.curves.items()):
        axis.plot(values, label=shorten(name), markevery=sparse(i, len(values), 6), **style(i))
    axis.set(xlabel="step", ylabel="value", title="schedules" if len(result.curves) > 1 else "")
    figure.legend(loc="outside lower center", fontsize=9, handlelength=4.5, frameon=False)
    grid(axis)
    return figure
