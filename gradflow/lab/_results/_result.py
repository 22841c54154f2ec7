"""The base of all results of the lab: plain data that prints, draws and saves.

Results hold data. `_plots` registers the function that draws each class, and the one that tabulates it.
"""

import base64
import dataclasses
import functools
import io
import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar

from gradflow._tables import Table, terminal_width


@functools.singledispatch
def draw(result: Any) -> Any:
    """Returns the matplotlib figure of a result."""
    raise NotImplementedError(f"no plot is registered for {type(result).__name__}")


@functools.singledispatch
def tabulate(result: Any, *options: Any) -> Table:
    """Returns a result as a table."""
    raise NotImplementedError(f"no table is registered for {type(result).__name__}")


class Result:
    """The base of results: dataclasses of lists, numbers and strings."""

    file_name: ClassVar[str] = "result"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Returns a matplotlib figure, and saves it if a path is given."""
        figure = draw(self)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """All fields, as dicts and lists."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def to_json(self) -> str:
        """All fields, as JSON; numbers that are not finite become null."""
        return json.dumps(plain(self.to_dict()), allow_nan=False)

    def save(self, directory: str | os.PathLike[str] = ".") -> list[Path]:
        """Writes the JSON and the picture into a directory, which is made if it does not exist."""
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        written = [place / f"{self.file_name}.json", place / f"{self.file_name}.png"]
        written[0].write_text(self.to_json() + "\n", encoding="utf-8")
        self.plot(written[1])
        return written

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        draw(self).savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


class TabulatedResult(Result):
    """The base of results that print as a table, and are one above its picture in a notebook."""

    def table(self, *, width: int | None = None) -> str:
        """The result as text; words wrap where lines would be longer than `width`."""
        return tabulate(self).text(width)

    def __str__(self) -> str:
        return self.table(width=terminal_width())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._repr_png_()).decode()
        image = f'<img style="max-width:100%" alt="" src="data:image/png;base64,{picture}">'
        return f"<div>{tabulate(self).html()}{image}</div>"


def plain(value: Any) -> Any:
    """Converts a value for JSON: None for numbers that are not finite, `repr` for other objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else repr(value)


def numbers(value: Any) -> Any:
    """Reads nested lists of numbers that `plain` wrote: null is NaN; None itself stays."""
    if not isinstance(value, list):
        return value
    return [math.nan if item is None else numbers(item) for item in value]
