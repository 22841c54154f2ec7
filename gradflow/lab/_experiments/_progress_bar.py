"""The progress bar."""

from gradflow.lab._optional import optional


class Bar:
    """A progress bar over steps; silent where none is to be shown."""

    def __init__(self, shown: bool, total: int, done: int = 0) -> None:
        self.bar = None
        if shown:
            module = optional("tqdm", "the progress bar")
            self.bar = module.tqdm(total=total, initial=done, unit="step")

    def say(self, text: str) -> None:
        """Shows what is being done."""
        if self.bar is not None:
            self.bar.set_description(text)

    def advance(self, steps: int) -> None:
        """Counts steps that are done."""
        if self.bar is not None:
            self.bar.update(steps)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self.bar is not None:
            self.bar.close()
