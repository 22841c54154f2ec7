"""The progress bar."""

import importlib
import sys
from typing import Any


class ProgressBar:
    """A progress bar over steps, which may be hidden. Without tqdm there is none.

    With `shown=None` there is one in a terminal and in a notebook; a pipe or a file would get all its states.
    """

    def __init__(self, shown: bool | None, total: int, done: int = 0) -> None:
        self.bar: Any = None
        if _is_watched() if shown is None else shown:
            try:
                module = importlib.import_module("tqdm")
            except ImportError:
                return
            self.bar = module.tqdm(total=total, initial=done, unit="step")

    def describe(self, text: str) -> None:
        """Sets the description of the bar."""
        if self.bar is not None:
            self.bar.set_description(text)

    def extend(self, steps: int) -> None:
        """Adds steps to the whole."""
        if self.bar is not None:
            self.bar.total += steps
            self.bar.refresh()

    def advance(self, steps: int) -> None:
        """Advances the bar by a number of steps."""
        if self.bar is not None:
            self.bar.update(steps)

    def close(self) -> None:
        """Closes the bar, which stays on the screen."""
        if self.bar is not None:
            self.bar.close()


def _is_watched() -> bool:
    """Whether the error output, where the bar goes, is a terminal or a notebook's."""
    output = sys.stderr
    return output is not None and (output.isatty() or type(output).__module__.startswith("ipykernel"))
