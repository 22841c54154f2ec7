"""The picture of norms, ratios, reports and histograms of a training run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradflow._expressions._printing import shorten
from gradflow.lab._plots._style import grid, new_figure, sparse, style
from gradflow.lab._results._result import draw
from gradflow.lab._results._state_history import StateHistory

_MOST = 8  # lines per panel
_REPORTS = 4  # panels of single reports


@draw.register
def plot(result: StateHistory) -> Any:
    """A panel each for the loss, the norms, the ratios, some other reports, and the histograms."""
    series = result.series
    norms = {name: series[name] for name in series if _last(name).endswith("norm")}
    ratios = {name: series[name] for name in series if _last(name).endswith(("ratio", "factor"))}
    others = [name for name in series if name not in norms and name not in ratios and name != "loss"]
    moving = [name for name in others if len(set(series[name])) > 1]
    panels: list[tuple[str, str, Callable[..., None], Mapping[str, Any]]] = [
        ("loss", "training loss of the batch", _lines, {"loss": series["loss"]} if "loss" in series else {}),
        ("norms", "norm", _lines, norms),
        ("ratios", "ratio", _lines, {**result.ratios, **ratios}),
        *((shorten(n, 50), _last(n).replace("_", " "), _lines, {n: series[n]}) for n in moving[:_REPORTS]),
        ("at the end", "share of the numbers", _histograms, result.histograms),
    ]
    drawn = [panel for panel in panels if panel[3]]
    columns = 1 if len(drawn) == 1 else 2 if len(drawn) in (2, 4) else 3
    rows = max(1, -(-len(drawn) // columns))
    figure = new_figure(5.2 * columns, 4.1 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, label, draw_panel, data) in zip(axes, drawn, strict=False):
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(label)
        draw_panel(axis, data)
        grid(axis)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    figure.suptitle(shorten(result.title), fontsize=11)
    return figure


def _last(name: str) -> str:
    return name.split(".")[-1]


def _lines(axis: Any, data: Mapping[str, list[float]]) -> None:
    shown = np.concatenate([np.asarray(values) for values in data.values()])
    shown = shown[np.isfinite(shown)]
    positive = shown[shown > 0]
    # Logarithmic where the values span decades; single zeros are gaps.
    mostly = (shown >= 0).all() and positive.size > 0.5 * shown.size
    log = mostly and shown.max() > 20 * np.quantile(positive, 0.05)
    for i, (name, values) in enumerate(list(data.items())[:_MOST]):
        array = np.asarray(values)
        array = np.where(array > 0, array, np.nan) if log else array
        axis.plot(array, label=shorten(name, 44), markevery=sparse(i, len(array), 6), **style(i))
    if log:
        axis.set_yscale("log")
    axis.locator_params(axis="x", integer=True)
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
    _legend(axis, len(data) + 1)  # a single histogram gets a legend too


def _legend(axis: Any, lines: int) -> None:
    if lines == 1:
        return
    title = f"{_MOST} of {lines}" if lines - 1 > _MOST else None
    axis.legend(
        fontsize=8,
        handlelength=3.5,
        title=title,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        frameon=False,
    )
