"""The picture and the table of paths on a function of two variables."""

import math
from typing import Any

import numpy as np

from gradflow._tables import Table
from gradflow.lab._plots._cells import format_number
from gradflow.lab._plots._style import grid, new_figure, sparse, style
from gradflow.lab._results._result import draw, tabulate
from gradflow.lab._results._trajectories import Path, Trajectories

_DECADES = 8  # of height above the lowest that are drawn


@draw.register
def plot(result: Trajectories) -> Any:
    """Left: the paths on the map of the function. Right: the height above the lowest value by step."""
    figure = new_figure(10.5, 4.8)
    map_axis, heights = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _draw_map(map_axis, result)
    _draw_heights(heights, result)
    handles, labels = heights.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, max(1, len(labels))), fontsize=9,
        handlelength=4.5, frameon=False,
    )  # fmt: skip
    return figure


def _label(path: Path) -> str:
    vectors = " (as for vectors)" if path.as_for_vectors else ""
    return f"{path.expression}{vectors}{' diverged' if path.diverged else ''}"


def _draw_map(axis: Any, result: Trajectories) -> None:
    surface = np.asarray(result.surface)
    height = np.where(np.isfinite(surface), surface, np.nan) - np.nanmin([np.nanmin(surface), result.lowest])
    top = float(np.nanmax(height))
    levels = np.geomspace(max(top * 1e-4, 1e-30), top, 14)
    shades = np.log10(np.maximum(height, levels[0]))
    axis.contourf(
        result.x, result.y, shades, levels=np.log10(levels), cmap="Greys", alpha=0.35, extend="both"
    )
    axis.contour(
        result.x, result.y, shades, levels=np.log10(levels), colors="0.55", linewidths=0.5, linestyles="-"
    )
    for i, path in enumerate(result.paths):
        points = _near(np.asarray(path.points), result)
        axis.plot(
            points[:, 0], points[:, 1], markevery=sparse(i, len(points), 12), alpha=0.9, zorder=3,
            **{**style(i), "markersize": 4.5},
        )  # fmt: skip
        if not path.diverged:
            axis.plot(*points[-1], style(i)["marker"], color=style(i)["color"], markersize=9, zorder=5,
                      markeredgecolor="white")  # fmt: skip
    for point in result.minima:
        axis.plot(*point, "*", color="white", markeredgecolor="black", markersize=14, zorder=4)
    axis.annotate(
        "start", result.start, xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9, zorder=6,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )  # fmt: skip
    axis.plot(*result.start, "o", markerfacecolor="white", markeredgecolor="black", markersize=8, zorder=6)
    title = f"{result.function.replace('_', ' ')}, {result.steps} steps"
    title += " (stars: minima)" if result.minima else ""
    axis.set(
        xlabel="x", ylabel="y", xlim=(result.x[0], result.x[-1]), ylim=(result.y[0], result.y[-1]),
        title=title,
    )  # fmt: skip


def _near(points: np.ndarray, result: Trajectories) -> np.ndarray:
    """The points before a path becomes not finite or leaves the picture far."""
    center = np.asarray([np.mean(result.x), np.mean(result.y)])
    reach = 100 * max(np.ptp(result.x), np.ptp(result.y))
    with np.errstate(over="ignore", invalid="ignore"):
        lost = ~(np.abs(points - center).max(axis=1) < reach)
    return points[: max(1, int(np.argmax(lost)))] if lost.any() else points


def _draw_heights(axis: Any, result: Trajectories) -> None:
    first = result.paths[0].values[0] if result.paths else 1.0
    top = max(first - result.lowest, 1e-30)
    bottom = top * 10.0**-_DECADES
    least = top
    for i, path in enumerate(result.paths):
        values = np.asarray(path.values) - result.lowest
        drawn = np.clip(np.where(np.isfinite(values), values, np.inf), bottom, 1e3 * top)
        least = min(least, float(drawn.min()))
        axis.plot(drawn, label=_label(path), markevery=sparse(i, len(drawn)), **style(i))
    axis.set_yscale("log")
    axis.set_ylim(least * (least / top) ** 0.03, 10 * top)
    axis.set(xlabel="step", ylabel="value above the minimum", title="height by step")
    grid(axis)


@tabulate.register
def table(result: Trajectories) -> Table:
    """Where each path ended, the lowest first."""
    head = f"{result.function}: {result.steps} steps from ({result.start[0]:g}, {result.start[1]:g})"

    def key(path: Path) -> tuple[bool, float]:
        return path.diverged, path.values[-1] if math.isfinite(path.values[-1]) else math.inf

    rows = []
    for path in sorted(result.paths, key=key):
        end = ", ".join(f"{value:.3g}" for value in path.points[-1])
        value = "diverged" if path.diverged else format_number(path.values[-1])
        run = path.expression + (" (as for vectors)" if path.as_for_vectors else "")
        rows.append([path.name, value, f"({end})", run])
    matrices = [path.name for path in result.paths if path.as_for_vectors]
    notes = (
        [
            f"{', '.join(matrices)}: a point is not a matrix, so the part for vectors moves it. "
            "gradflow.summary(tx, jax.numpy.zeros(2)) shows which."
        ]
        if matrices
        else []
    )
    return Table(head, ("optimizer", "end value", "end point", "as run"), rows, (0, 3), notes)
