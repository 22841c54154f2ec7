"""Tables as aligned text, or as HTML that uses the colors of the page."""

import html
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_GAP = 2  # spaces between columns


class Table(NamedTuple):
    """A table: columns in `left` are left-aligned, the others right-aligned; notes stand below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int]
    notes: Sequence[str] = ()

    def text(self, width: int | None = None) -> str:
        """The table as text; words wrap where lines would be longer than `width`."""
        lines = [] if not self.rows else ["", *aligned([self.head, *self.rows], self.left, True, width)]
        notes = ["", *self.notes] if self.notes and self.rows else self.notes
        return "\n".join([*_wrapped(self.title, width), *lines, *_wrapped("\n".join(notes), width)])

    def html(self) -> str:
        """The table as HTML, which scrolls by itself where the page is too narrow."""
        below = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        if not self.rows:
            return f"<div>{html.escape(self.title)}{below}</div>"
        return f"<div>{table(self.head, self.rows, self.left, self.title)}{below}</div>"


def terminal_width() -> int | None:
    """The columns of the terminal that is printed to; None for a pipe, a file or a notebook."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def aligned(
    rows: Sequence[Sequence[str]], left: Sequence[int], rule: bool = False, width: int | None = None
) -> list[str]:
    """The lines of a table. Columns in `left` are left-aligned; `rule` underlines the first row.

    Where lines would be longer than `width`, words wrap: in the head first, then in the rows.
    """
    widths = _widths(rows, width)
    lines = []
    for row in rows:
        cells = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for k in range(max(map(len, cells))):
            parts = [cell[k] if k < len(cell) else "" for cell in cells]
            pairs = enumerate(zip(parts, widths, strict=True))
            line = [part.ljust(size) if i in left else part.rjust(size) for i, (part, size) in pairs]
            lines.append((" " * _GAP).join(line).rstrip())
        if rule and row is rows[0]:
            lines.append((" " * _GAP).join("-" * size for size in widths))
    return lines


def _widths(rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """The widths of the columns, narrowed to their longest words at most until they fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if width is None:
        return widths
    least = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    body = [max([low, *map(len, column[1:])]) for low, column in zip(least, columns, strict=True)]
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    for floor in (body, least):
        for _ in range(max(over, 0)):
            slack = [size - low for size, low in zip(widths, floor, strict=True)]
            if max(slack) <= 0:
                break
            widths[slack.index(max(slack))] -= 1
            over -= 1
    return widths


def _wrapped(text: str, width: int | None) -> list[str]:
    """The lines of a text, none longer than `width` except for its longest word."""
    lines = text.split("\n")
    if width is None or max(map(len, lines)) <= width:
        return lines
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]
    ]


def preformatted(text: str) -> str:
    """Text as HTML in a monospace font, whose lines do not wrap."""
    style = "font-family:monospace;line-height:1.3;margin:0;white-space:pre;overflow-x:auto"
    return f'<pre style="{style}">{html.escape(text)}</pre>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int], title: str = "") -> str:
    """A table as HTML. Columns in `left` are left-aligned, the others right-aligned.

    Paths and addresses may break after a dot or a slash; numbers never do.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        parts = []
        for i, cell in enumerate(cells):
            side = "left" if i in left else "right;white-space:nowrap" if tag == "td" else "right"
            text = re.sub(r"([./])(?=\w)", r"\1<wbr>", html.escape(cell)) if i in left else html.escape(cell)
            parts.append(f'<{tag} style="text-align:{side}">{text}</{tag}>')
        return f"<tr>{''.join(parts)}</tr>"

    shown = html.escape(title)
    caption = f'<caption style="text-align:left;white-space:normal">{shown}</caption>' if title else ""
    body = "".join(line(row, "td") for row in rows)
    whole = f"<table>{caption}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
    return f'<div style="overflow-x:auto">{whole}</div>'
