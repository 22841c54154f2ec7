"""The result of `compare`: plain data and its JSON."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from gradflow.lab._results._result import TabulatedResult, numbers
from gradflow.lab._results._statistics import interval, is_settled, median

Table = list[list[float]]  # one row per learning rate, one column per seed


@dataclasses.dataclass(frozen=True)
class Entry:
    """One optimizer's runs. Tables have a row for each learning rate and a column for each seed."""

    name: str
    expression: str  # the transformation at its best rate, as code
    learning_rates: list[float | None]  # [None] for a transformation that ran unchanged
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
        """Makes an entry from loss curves: which runs diverged or reached the target, and the best rate."""
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

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> "Entry":
        """Makes an entry from its fields as JSON has them."""
        read = {name: numbers(data[name]) for name in ("losses", "final_loss", "score")}
        return cls(**{**data, **read})

    @property
    def best_rate(self) -> float | None:
        """The rate with the fewest steps to the target, or else the lowest final loss."""
        return self.learning_rates[self.best]

    @property
    def best_is_at_the_end(self) -> bool:
        """Whether the best rate is the first or the last, so that a rate beyond it may be better."""
        return len(self.learning_rates) > 1 and self.best in (0, len(self.learning_rates) - 1)

    @property
    def seeds_steps(self) -> list[float]:
        """At the best rate, for each seed: the steps to the target, infinity for never."""
        return [math.inf if s is None else float(s) for s in self.steps_to_target[self.best]]

    @property
    def seeds_loss(self) -> list[float]:
        """At the best rate, for each seed: the final loss, infinity where it diverged."""
        pairs = zip(self.final_loss[self.best], self.diverged[self.best], strict=True)
        return [math.inf if bad else loss for loss, bad in pairs]

    def resolution(self, of: str) -> float:
        """What a finer grid could gain in median "steps" or "loss", by a parabola through three rates.

        Zero for an optimizer that ran unchanged. Where both neighbors of the best rate failed, infinity for
        the loss. Steps are at best inversely proportional to the rate, so the rate halfway bounds the gain.
        """
        keys = [
            _rank_key(*row)[of == "loss"]
            for row in zip(self.steps_to_target, self.final_loss, self.diverged, strict=True)
        ]
        here, low, high = keys[self.best], self.best - 1, self.best + 1
        beside = [keys[i] - here for i in (low, high) if 0 <= i < len(keys) and math.isfinite(keys[i])]
        if len(keys) == 1:
            return 0.0
        if not math.isfinite(here):
            return math.inf
        most = here * (1 - self._spacing() ** -0.5) if of == "steps" else math.inf
        if not beside:
            return most
        if len(beside) == 1:
            return min(max(beside[0], 0.0), most)
        rise = sum(beside)
        return min((beside[0] - beside[1]) ** 2 / (8 * rise), most) if rise > 0 else 0.0

    def _spacing(self) -> float:
        """The ratio of the best rate and its neighbor, the larger one of two."""
        rates = [rate for rate in self.learning_rates if rate is not None][
            max(0, self.best - 1) : self.best + 2
        ]
        return max((b / a for a, b in itertools.pairwise(rates)), default=1.0)

    @property
    def rank_key(self) -> tuple[float, float, int]:
        """The sort key of entries: median steps to the target, median final loss, seeds that diverged."""
        b = self.best
        return _rank_key(self.steps_to_target[b], self.final_loss[b], self.diverged[b])


def _is_behind(second: Entry, first: Entry) -> bool:
    of, a, b = "steps", first.seeds_steps, second.seeds_steps
    if math.isinf(median(a)) and math.isinf(median(b)):
        of, a, b = "loss", first.seeds_loss, second.seeds_loss
    effect = median(b) - median(a)
    # A finer grid can only make the first better.
    return is_settled(a, b) and (effect == math.inf or effect > second.resolution(of))


def _rank_key(
    steps: Sequence[int | None], final: Sequence[float], diverged: Sequence[bool]
) -> tuple[float, float, int]:
    """Medians over seeds; a run that did not reach the target, or diverged, counts as infinity."""
    return (
        median([math.inf if s is None else s for s in steps]),
        median([math.inf if bad else loss for loss, bad in zip(final, diverged, strict=True)]),
        sum(diverged),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(TabulatedResult):
    """The entries in order of rank, and the settings that they share."""

    file_name: ClassVar[str] = "comparison"

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

    def intervals(self, of: str | None = None) -> dict[str, tuple[float, float] | None]:
        """The 95 % bootstrap interval of each median over seeds, by name; None for fewer than three seeds.

        `of` is "steps" to the target, the default where there is one, or "loss", the final one. Both are at
        the best rate. It was chosen on the same seeds, and that choice's chance is not in the interval.
        """
        of = of or ("loss" if self.target is None else "steps")
        if of not in ("steps", "loss"):
            raise ValueError(f"intervals: argument 'of' must be 'steps' or 'loss'; got {of!r}")
        return {e.name: interval(e.seeds_steps if of == "steps" else e.seeds_loss) for e in self.entries}

    def noise(self) -> list[tuple[str, str]]:
        """The neighbors in the ranking whose order may be chance.

        An order is settled if the 95 % bootstrap interval of the difference of medians is below zero, and the
        difference is larger than what a finer grid of rates could change (`Entry.resolution`). It is in the
        steps to the target, or in the final loss where neither reaches it.
        """
        pairs = itertools.pairwise(self.entries)
        return [(first.name, second.name) for first, second in pairs if not _is_behind(second, first)]

    def slower_than_best(self) -> list[str]:
        """The optimizers that are behind the first by more than chance or a finer grid could explain."""
        return [entry.name for entry in self.entries[1:] if _is_behind(entry, self.entries[0])]

    def smallest_effect(self) -> str:
        """The smallest difference between neighbors, as text: in steps to the target or in the final loss."""
        steps, losses = [], []
        for first, second in itertools.pairwise(self.entries):
            a, b = median(first.seeds_steps), median(second.seeds_steps)
            if math.isinf(a) and math.isinf(b):
                losses.append(median(second.seeds_loss) - median(first.seeds_loss))
            elif math.isfinite(b):
                steps.append(b - a)
        shown = [f"{min(steps):.0f} steps"] if steps else []
        return " and ".join(shown + ([f"{min(losses):.2g} in the final loss"] if losses else []))

    def to_dict(self) -> dict[str, Any]:
        """All fields, as dicts and lists."""
        data = dataclasses.asdict(self)
        intervals = self.intervals()
        for rank, (entry, written) in enumerate(zip(self.entries, data["entries"], strict=True), 1):
            steps, loss, _ = entry.rank_key
            written |= {
                "rank": rank,
                "best_rate": entry.best_rate,
                "median_steps_to_target": steps,
                "median_final_loss": loss,
                "interval": intervals[entry.name],
            }
        return {**data, "noise": self.noise()}
