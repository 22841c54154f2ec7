"""The picture of a training's norms, ratios, reports and histograms."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradflow.lab._brief import short
from gradflow.lab._state_plot import StateHistory
from gradflow.lab._style import grid, new_figure, sparse, style

_MOST = 8  # lines of a panel
_NORMS = ("norm",)


def plot(result: StateHistory) -> Any:
    """A panel each for the loss, the norms, the ratios, what else was reported, and the histograms."""
    norms = {n: v for n, v in result.series.items() if n.split(".")[-1].endswith(_NORMS)}
    loss = {n: v for n, v in result.series.items() if n == "loss"}
    others = {n: v for n, v in result.series.items() if n not in norms and n not in loss}
    panels: list[tuple[str, str, Callable[..., None], Mapping[str, Any]]] = [
        ("loss", "training loss of the batch", _lines, loss),
        ("norms", "norm", _lines, norms),
        ("ratios", "ratio", _lines, result.ratios),
        ("reports", "value", _lines, others),
        ("at the end", "share of the numbers", _histograms, result.histograms),
    ]
    drawn = [panel for panel in panels if panel[3]]
    columns = 1 if len(drawn) == 1 else 2 if len(drawn) in (2, 4) else 3
    rows = max(1, -(-len(drawn) // columns))
    figure = new_figure(5.2 * columns, 4.1 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, label, draw, data) in zip(axes, drawn, strict=False):
        axis.set(title=title, ylabel=label)
        draw(axis, data)
        grid(axis)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    figure.suptitle(short(result.title), fontsize=11)
    return figure


def _lines(axis: Any, data: Mapping[str, list[float]]) -> None:
    positive = True
    for i, (name, values) in enumerate(list(data.items())[:_MOST]):
        array = np.asarray(values)
        finite = array[np.isfinite(array)]
        positive = positive and bool((finite > 0).all())
        axis.plot(array, label=short(name, 44), markevery=sparse(i, len(array), 6), **style(i))
    shown = [v for values in data.values() for v in values if np.isfinite(v)]
    if positive and shown and max(shown) > 10 * min(shown):
        axis.set_yscale("log")
    axis.set_xlabel("step")
    _legend(axis, len(data))


def _histograms(axis: Any, data: Mapping[str, Any]) -> None:
    for i, (name, found) in enumerate(list(data.items())[:_MOST]):
        total = sum(found.counts) + found.zeros + found.not_finite
        notes = [f"{found.zeros / total:.0%} zero"] * bool(found.zeros) if total else []
        notes += [f"{found.not_finite} not finite"] * bool(found.not_finite)
        middles = (np.asarray(found.edges[:-1]) + np.asarray(found.edges[1:])) / 2
        shares = np.asarray(found.counts) / max(total, 1)
        label = name + (f" ({', '.join(notes)})" if notes else "")
        axis.plot(middles, shares, label=label, markevery=sparse(i, len(middles), 6), **style(i))
        axis.fill_between(middles, shares, color=style(i)["color"], alpha=0.1, linewidth=0)
    axis.set_xlabel("log10 of the absolute value")
    axis.set_ylim(bottom=0)
    _legend(axis, len(data))


def _legend(axis: Any, lines: int) -> None:
    title = f"{_MOST} of {lines}" if lines > _MOST else None
    axis.legend(
        fontsize=8,
        handlelength=3.5,
        title=title,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        frameon=False,
    )
