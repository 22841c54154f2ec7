"""How values look in a notebook: text and tables that take their colours from the page."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from gradflow._expression import expression_of, show

_WIDTH = 96


def outline(value: Any, indent: int = 0, lead: str = "") -> str:
    """An expression as one would lay it out: what does not fit in a line has an argument a line.

    Arguments that have their default are left out.
    """
    expression = expression_of(value)
    if expression is not None:
        parts: list[tuple[str, Any]] = []
        for name, given in expression.given().items():
            if name == expression.maker.variadic:
                parts.extend(("", item) for item in given)
            else:
                parts.append((f"{name}=", given))
        opening, closing = f"{expression.name}(", ")"
    elif type(value) is dict:
        parts = [(f"{show(key)}: ", item) for key, item in value.items()]
        opening, closing = "{", "}"
    elif type(value) is tuple:
        parts, opening, closing = [("", item) for item in value], "(", ",)" if len(value) == 1 else ")"
    else:
        return lead + show(value)
    short = f"{lead}{opening}{', '.join(outline(item, 0, name) for name, item in parts)}{closing}"
    if not parts or (indent + len(short) <= _WIDTH and "\n" not in short):
        return short
    inner = " " * (indent + 4)
    lines = [f"{inner}{outline(item, indent + 4, name)}," for name, item in parts]
    return "\n".join([lead + opening, *lines, " " * indent + closing])


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
