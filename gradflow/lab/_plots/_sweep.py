"""The picture of a sweep: the best trials' losses, and the final loss by each hyper-parameter."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradflow._expressions._printing import shorten
from gradflow.lab._candidates._search_space import is_number
from gradflow.lab._plots._cells import format_value
from gradflow.lab._plots._style import COLORS, Limits, grid, new_figure, sparse, style
from gradflow.lab._plots._sweep_table import count
from gradflow.lab._results._result import draw
from gradflow.lab._results._statistics import quantile
from gradflow.lab._results._sweep import SweepResult, Trial

_BEST = 5  # trials whose losses are drawn as lines
_MOST = 5  # hyper-parameters that are drawn, at most


@draw.register
def plot(result: SweepResult) -> Any:
    """Left: the losses of the best trials. Right: a panel for each hyper-parameter, or one map for two."""
    names = list(result.space)[:_MOST]
    limits = _limits(result)
    if len(result.space) == 2 and result.method == "grid":
        figure = new_figure(10.5, 4.6)
        curves, map_axis = figure.subplots(1, 2, width_ratios=[1, 1.1])
        _draw_map(figure, map_axis, result, limits)
    else:
        down = 1 if len(names) <= 2 else 2
        across = -(-len(names) // down)
        figure = new_figure(4.5 + 3 * across, 3 * down + 1.6)
        places = figure.add_gridspec(down, 1 + across, width_ratios=[1.3, *[1] * across])
        curves = figure.add_subplot(places[:, 0])
        panels = [figure.add_subplot(places[i // across, 1 + i % across]) for i in range(len(names))]
        for axis, name in zip(panels, names, strict=True):
            _draw_values(axis, result, name, limits)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=4, fontsize=9, frameon=False)
    _draw_curves(curves, result, limits)
    title = f"{result.task}: {count(result.trials)} of {shorten(result.brief)}"
    figure.suptitle(title, fontsize=11)
    return figure


def _limits(result: SweepResult) -> Limits:
    starts = np.asarray([run[0] for trial in result.trials for run in trial.losses] or [1.0])
    middles = [quantile(trial.losses, 0.5) for trial in result.trials]
    return Limits.of(starts, np.concatenate(middles) if middles else np.ones(1))


def _draw_curves(axis: Any, result: SweepResult, limits: Limits) -> None:
    for i, trial in enumerate(result.trials[:_BEST]):
        curve = limits.drawable(quantile(trial.losses, 0.5))
        values = ", ".join(f"{name.split('.')[-1]} {format_value(v)}" for name, v in trial.values.items())
        axis.plot(
            result.evaluated_at[: len(curve)], curve, label=f"{i + 1}. {values}",
            markevery=sparse(i, len(curve)), **style(i),
        )  # fmt: skip
    limits.apply(axis)
    over = " (median over seeds)" if len(result.seeds) > 1 else ""
    axis.set(xlabel="step", ylabel=f"training loss{over}", title=f"the best {min(_BEST, len(result.trials))}")
    if result.trials:
        axis.legend(
            fontsize=8, handlelength=3.5, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False
        )
    grid(axis)


def _scale_of(result: SweepResult, name: str) -> str:
    """The scale of an axis: that of its Range, or for a list the one that spreads its values."""
    values = result.space[name]
    if isinstance(values, dict):
        return str(values["scale"])
    if not all(map(is_number, values)):
        return "words"
    if min(values) > 0 and max(values) / min(values) > 20:
        return "log"
    below = all(0.5 <= v < 1 for v in values)
    return "decay" if below and (1 - min(values)) / (1 - max(values)) > 5 else "linear"


def _draw_values(axis: Any, result: SweepResult, name: str, limits: Limits) -> None:
    kind = _scale_of(result, name)
    words = [str(v) for v in result.space[name]] if kind == "words" else []

    def place(trial: Trial) -> float:
        value = trial.values[name]
        if kind == "words":
            return float(words.index(str(value)))
        return 1 - value if kind == "decay" else float(value)

    ends = max((trial.steps for trial in result.trials), default=0)
    kinds = [
        ("finished", COLORS[0], "o", [t for t in result.trials if t.steps == ends and not _lost(t)]),
        ("stopped early", "0.55", "^", [t for t in result.trials if t.steps < ends and not _lost(t)]),
        ("diverged", "black", "x", [t for t in result.trials if _lost(t)]),
    ]
    _draw_seeds(axis, result, place, limits)
    for label, color, marker, some in kinds:
        if some:
            heights = [limits.inside(trial.final_loss) for trial in some]
            axis.plot(
                [place(t) for t in some], heights, marker, color=color, markersize=6, label=label, alpha=0.8
            )
    if result.trials:
        best = result.best
        axis.plot(
            [place(best)], [limits.inside(best.final_loss)], "*", color=COLORS[1], markersize=15,
            label="best", markeredgecolor="black", zorder=4,
        )  # fmt: skip
    limits.apply(axis)
    label = name
    if kind in ("log", "decay"):
        axis.set_xscale("log")
    if kind == "decay":
        axis.invert_xaxis()
        label = f"1 - {name}"
    if kind == "words":
        axis.set_xticks(range(len(words)), [shorten(word, 24) for word in words], rotation=15)
        axis.set_xlim(-0.5, len(words) - 0.5)
    over = " (median and range)" if len(result.seeds) > 1 else ""
    axis.set(xlabel=label, ylabel=f"last training loss{over}")
    grid(axis)


def _draw_seeds(axis: Any, result: SweepResult, place: Callable[[Trial], float], limits: Limits) -> None:
    """Draws the range of the points over seeds, and a line through them if there is one axis."""
    trials = sorted(result.trials, key=place)
    if len(result.seeds) > 1:
        ends = [[limits.inside(run[-1]) for run in trial.losses] for trial in trials]
        axis.vlines([place(t) for t in trials], [min(e) for e in ends], [max(e) for e in ends], color="0.7")
    if len(result.space) == 1 and result.method != "halving":
        axis.plot(
            [place(t) for t in trials], [limits.inside(t.final_loss) for t in trials], color="0.7", lw=1
        )


def _lost(trial: Trial) -> bool:
    return math.isinf(trial.final_loss)


def _draw_map(figure: Any, axis: Any, result: SweepResult, limits: Limits) -> None:
    """Draws two axes of a grid as a map; each cell also shows its number, so color is not needed."""
    across, up = result.space
    columns, rows = (_cells(result, name) for name in (across, up))
    losses = np.full((len(rows), len(columns)), np.nan)
    for trial in result.trials:
        losses[
            rows.index(format_value(trial.values[up])), columns.index(format_value(trial.values[across]))
        ] = trial.final_loss
    shown_losses = np.where(np.isfinite(losses), np.clip(losses, limits.low, limits.top), np.nan)
    heights = np.log10(shown_losses) if limits.log else shown_losses
    axis.set_facecolor("0.9")
    image = axis.imshow(heights, cmap="cividis", origin="lower", aspect="auto")
    least, most = np.nanmin(heights, initial=np.inf), np.nanmax(heights, initial=-np.inf)
    size = 8 if losses.size <= 64 else 6
    for (i, j), loss in np.ndenumerate(losses):
        if losses.size > 150 and math.isfinite(loss):
            continue
        text = f"{loss:.2g}" if math.isfinite(loss) else "diverged" if math.isinf(loss) else ""
        dark = math.isfinite(loss) and heights[i, j] < (least + most) / 2
        rotation = 45 if text == "diverged" and len(columns) > 5 else 0
        axis.text(
            j, i, text, ha="center", va="center", fontsize=size, color="white" if dark else "black",
            rotation=rotation,
        )  # fmt: skip
    if result.trials:
        best = result.best.values
        x, y = columns.index(format_value(best[across])), rows.index(format_value(best[up]))
        axis.plot([x], [y - 0.28], "*", color=COLORS[1], markersize=13, markeredgecolor="white")
    axis.set_xticks(range(len(columns)), columns, rotation=30 if len(columns) > 5 else 0)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=across, ylabel=up, title="final training loss (star: best)")
    bar = figure.colorbar(image, ax=axis)
    bar.set_label("log10 of the final training loss" if limits.log else "final training loss")


def _cells(result: SweepResult, name: str) -> list[str]:
    """The values of an axis in the order of the map."""
    values = {format_value(trial.values[name]): trial.values[name] for trial in result.trials}
    if all(map(is_number, values.values())):
        return sorted(values, key=lambda text: values[text])
    return list(values)
