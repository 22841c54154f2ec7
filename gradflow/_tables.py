"""Tables as aligned text, or as HTML that uses the colors of the page."""

import html
from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int], rule: bool = False) -> list[str]:
    """The lines of a table. Columns in `left` are left-aligned; `rule` underlines the first row."""
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
    """Text as HTML in a monospace font."""
    return f'<pre style="font-family:monospace;line-height:1.3;margin:0">{html.escape(text)}</pre>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int], title: str = "") -> str:
    """A table as HTML. Columns in `left` are left-aligned, the others right-aligned."""

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f'<{tag} style="text-align:{"left" if i in left else "right"}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table>{caption}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
