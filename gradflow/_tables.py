"""Tables, aligned for a terminal or as HTML that takes its colors from the page."""

import html
from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int], rule: bool = False) -> list[str]:
    """The rows of a table as lines; the columns of `left` are flush left. `rule` underlines the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def preformatted(text: str) -> str:
    """Text in a typewriter's letters."""
    return f'<pre style="font-family:monospace;line-height:1.3;margin:0">{html.escape(text)}</pre>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int], title: str = "") -> str:
    """A table; the columns of `left` hold words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f'<{tag} style="text-align:{"left" if i in left else "right"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table>{caption}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
