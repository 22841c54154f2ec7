"""The progress bar."""

from gradflow.lab._optional import optional


class ProgressBar:
    """A progress bar over steps, which may be hidden."""

    def __init__(self, shown: bool, total: int, done: int = 0) -> None:
        self.bar = None
        if shown:
            module = optional("tqdm", "the progress bar")
            self.bar = module.tqdm(total=total, initial=done, unit="step")

    def describe(self, text: str) -> None:
        """Sets the description of the bar."""
        if self.bar is not None:
            self.bar.set_description(text)

    def advance(self, steps: int) -> None:
        """Advances the bar by a number of steps."""
        if self.bar is not None:
            self.bar.update(steps)

    def close(self) -> None:
        """Closes the bar, which stays on the screen."""
        if self.bar is not None:
            self.bar.close()
