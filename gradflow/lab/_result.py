"""What a comparison found, as plain data, and its JSON."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Table = list[list[float]]  # one row a learning rate, one column a seed


@dataclasses.dataclass(frozen=True)
class Entry:
    """One optimizer's runs. Tables have a row for each learning rate and a column for each seed."""

    name: str
    expression: str  # the transformation at its best rate, as one would type it
    learning_rates: list[float | None]  # [None] for a transformation that was run as it is
    best: int  # index of the best rate
    losses: list[list[list[float]]]  # [rate][seed][evaluation]: the training loss
    steps_to_target: list[list[int | None]]  # None where it was not reached
    final_loss: Table
    diverged: list[list[bool]]
    score: Table | None
    state_bytes_per_parameter: float
    seconds: float  # training and evaluating all runs, after compilation
    compile_seconds: float

    @classmethod
    def of_losses(
        cls,
        losses: np.ndarray,
        evaluated_at: Sequence[int],
        target: float | None,
        *,
        describe: Callable[[float | None], str],
        learning_rates: list[float | None],
        **fields: Any,
    ) -> "Entry":
        """The entry for a table of loss curves: who diverged, who reached the target, and the best rate."""
        final = losses[..., -1]
        diverged = ~np.isfinite(losses).all(axis=-1) | ~(final <= losses[..., 0])
        reached = np.zeros(losses.shape, bool) if target is None else losses <= target
        met = reached.any(axis=-1) & ~diverged
        steps = [
            [int(evaluated_at[i]) if ok else None for i, ok in zip(*pair, strict=True)]
            for pair in zip(reached.argmax(axis=-1), met, strict=True)
        ]
        keys = [_rank_key(*row) for row in zip(steps, final.tolist(), diverged.tolist(), strict=True)]
        best = keys.index(min(keys))
        return cls(
            expression=describe(learning_rates[best]),
            learning_rates=learning_rates,
            best=best,
            losses=losses.tolist(),
            steps_to_target=steps,
            final_loss=final.tolist(),
            diverged=diverged.tolist(),
            **fields,
        )

    @property
    def best_rate(self) -> float | None:
        """The rate with the fewest steps to the target, or else the lowest final loss."""
        return self.learning_rates[self.best]

    @property
    def best_is_at_the_end(self) -> bool:
        """Whether a rate beyond those tried may be better still."""
        return len(self.learning_rates) > 1 and self.best in (0, len(self.learning_rates) - 1)

    @property
    def rank_key(self) -> tuple[float, float, int]:
        """What entries are ranked by: median steps to the target, median final loss, seeds that diverged."""
        b = self.best
        return _rank_key(self.steps_to_target[b], self.final_loss[b], self.diverged[b])


def _rank_key(
    steps: Sequence[int | None], final: Sequence[float], diverged: Sequence[bool]
) -> tuple[float, float, int]:
    """Medians over seeds; a run that did not get there counts as infinity."""
    return (
        median([math.inf if s is None else s for s in steps]),
        median([math.inf if bad else loss for loss, bad in zip(final, diverged, strict=True)]),
        sum(diverged),
    )


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values, some infinite, the mean of the middle two."""
    return statistics.median(map(float, values))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The entries in order of rank, and what they have in common."""

    task: str
    target: float | None
    steps: int
    evaluated_at: list[int]
    seeds: list[int]
    score_name: str | None
    entries: list[Entry]

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The ranking as text."""
        from gradflow.lab._table import table

        return table(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib figure: loss curves, and the loss by learning rate. Saved if a path is given."""
        from gradflow.lab._plot import plot

        figure = plot(self)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def to_json(self) -> str:
        """Everything, as JSON; numbers that are not finite are null there."""
        data = dataclasses.asdict(self)
        for rank, (entry, written) in enumerate(zip(self.entries, data["entries"], strict=True), 1):
            steps, loss, _ = entry.rank_key
            written |= {
                "rank": rank,
                "best_rate": entry.best_rate,
                "median_steps_to_target": steps,
                "median_final_loss": loss,
            }
        return json.dumps(_plain(data), allow_nan=False)

    def save(self, directory: str | os.PathLike[str] = ".") -> list[Path]:
        """Writes comparison.json and comparison.png into a directory, made if need be."""
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        written = [place / "comparison.json", place / "comparison.png"]
        written[0].write_text(self.to_json() + "\n", encoding="utf-8")
        self.plot(written[1])
        return written


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
