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

from gradflow._tables import preformatted


@functools.singledispatch
def draw(result: Any) -> Any:
    """Returns the matplotlib figure of a result."""
    raise NotImplementedError(f"no plot is registered for {type(result).__name__}")


@functools.singledispatch
def tabulate(result: Any, *options: Any) -> str:
    """Returns a result as a text table."""
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

    def _page(self) -> str:
        """The result as a table above its picture, as HTML."""
        picture = base64.b64encode(self._repr_png_()).decode()
        image = f'<img style="max-width:100%" src="data:image/png;base64,{picture}">'
        return preformatted(str(self)) + image


def plain(value: Any) -> Any:
    """Converts a value for JSON: None for numbers that are not finite, `repr` for other objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else repr(value)
