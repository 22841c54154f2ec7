"""Rows of the benchmarks, and their forms as a table, JSON and a bar chart."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Ratio


class Row(NamedTuple):
    """The costs of gradflow and a peer. Timed rows have a ratio, exact rows have two figures.

    `limits` has gradflow's time as a multiple of the machine's limits, by their names. `exact` has exact
    figures of the same program, gradflow's and the peer's.
    """

    name: str
    figure: str
    ratio: Ratio | None = None
    ours: float | None = None
    peer: float | None = None
    against: str = "Optax"
    limits: Mapping[str, float] | None = None
    exact: Mapping[str, tuple[float | None, float | None]] | None = None
    group: str = ""


class Skipped(NamedTuple):
    """A row that could not be measured, and why."""

    name: str
    why: str
    group: str = ""


def _number(x: float | None) -> str:
    if x is None:
        return "-"
    if x != int(x):
        return f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}"
    return f"{int(x):,}"


def _seconds(x: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x * 1e6:.3g} us"


def cells(row: Row | Skipped) -> tuple[str, ...]:
    """Name, figure, how many times ahead with spread, gradflow's seconds, limits, exact figures."""
    if isinstance(row, Skipped):
        return row.name, "skipped", row.why, "", "", ""
    if row.ratio is not None:
        ahead = f"{row.ratio.ratio:.2f} x {row.against}  [{row.ratio.low:.2f}, {row.ratio.high:.2f}]"
        took = _seconds(row.ratio.seconds)
    elif row.ours is not None:
        ahead, took = f"{_number(row.ours)} / {_number(row.peer)} {row.against}", ""
    else:
        ahead, took = "-", ""
    limits = ", ".join(f"{x:.2f} x {name}" for name, x in (row.limits or {}).items())
    exact = ", ".join(f"{name} {_number(a)} / {_number(b)}" for name, (a, b) in (row.exact or {}).items())
    return row.name, row.figure, ahead, took, limits, exact


HEADS = ("what", "figure", "gradflow is ahead", "takes", "of the limit", "exact, gradflow / peer")
_WIDTHS = (26, 30, 34, 8, 32, 0)


def line(row: Row | Skipped | None) -> str:
    """Formats one line of the printed table; None gives its head."""
    return padded(cells(row) if row else HEADS, _WIDTHS)


def markdown(rows: Sequence[Row | Skipped]) -> str:
    """A table for each group."""
    parts = []
    for group in dict.fromkeys(row.group for row in rows):
        inside = [cells(row) for row in rows if row.group == group]
        parts.append(f"### {group}\n\n{markdown_table(HEADS, inside)}\n")
    return "\n".join(parts)


def padded(texts: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a printed table."""
    columns = zip(texts, widths, strict=True)
    return " ".join(f"{text:<{width}}" for text, width in columns).rstrip()


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without a line break at its end."""
    table = [heads, ["---" for _ in heads], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)


def plain(row: Row | Skipped) -> dict[str, Any]:
    """A row as plain data."""
    data = row._asdict()
    if isinstance(row, Row):
        data["ratio"] = row.ratio and row.ratio._asdict()
    return data


def write_json(path: str, rows: Sequence[Row | Skipped], about: Mapping[str, Any]) -> None:
    """Writes all rows, and the machine on which they were measured."""
    data = {"about": dict(about), "rows": [plain(row) for row in rows]}
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def write_chart(path: str, rows: Sequence[Row | Skipped], title: str) -> None:
    """Draws the timed rows as bars on a logarithmic axis: right of the line gradflow is faster."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    timed = [(row, row.ratio) for row in rows if isinstance(row, Row) and row.ratio is not None]
    figure = Figure(figsize=(9, 1.2 + 0.22 * max(len(timed), 1)), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(row.group for row, _ in timed))
    for at, (row, ratio) in enumerate(timed):
        color = f"C{groups.index(row.group) % 10}"
        axes.barh(at, ratio.ratio - 1, left=1, color=color, height=0.7)
        axes.plot([ratio.low, ratio.high], [at, at], color="black", linewidth=1)
        axes.annotate(f" {ratio.ratio:.2f}", (max(ratio.ratio, ratio.high, 1), at), va="center", fontsize=7)
    labels = [
        f"{row.name}: {row.figure}" + (f" ({row.against})" if row.against != "Optax" else "")
        for row, _ in timed
    ]
    axes.set_yticks(range(len(timed)), labels, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel("the peer's time over gradflow's; the line is the middle half of the pairs")
    figure.suptitle(title.replace("; ", "\n"), fontsize=9)
    figure.savefig(path)
