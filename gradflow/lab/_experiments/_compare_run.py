"""Trains every optimizer at every rate from every seed, each optimizer as one compiled program."""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.lab._candidates._candidates import Candidate
from gradflow.lab._experiments._entry_log import EntryLog
from gradflow.lab._experiments._plan import Plan
from gradflow.lab._experiments._program import CannotRunError, Setting, scores, set_up, start, training
from gradflow.lab._experiments._progress_bar import ProgressBar
from gradflow.lab._results._comparison import Entry

EXTENSIONS = 2  # of a grid whose best rate is at its end


class _Ready(NamedTuple):
    candidate: Candidate
    rates: jax.Array
    begin: Callable[..., Any]
    start: Callable[[], Any]
    lowered: Any
    bytes_per_parameter: float


class CompareRun(NamedTuple):
    """A comparison whose data are loaded, and the entries that an earlier call has finished."""

    plan: Plan
    setting: Setting
    log: EntryLog

    @classmethod
    def of(cls, plan: Plan, file: str | os.PathLike[str] | None = None) -> "CompareRun":
        """Loads the data; raises ValueError for the file of another comparison."""
        setting = set_up(plan.task, plan.seeds, plan.steps, "compare")
        return cls(plan, setting, EntryLog(file, plan.settings(jax.device_get(setting.first))))

    @property
    def finished(self) -> list[Entry]:
        """The entries of an earlier call."""
        found = [self.log.get(candidate) for candidate in self.plan.candidates]
        return [entry for entry in found if entry is not None]

    def entries(self, progress: bool | None = None) -> Iterator[Entry]:
        """Yields the entry of each candidate, first those that an earlier call has finished.

        All programs are traced before the first one runs, so that an error in any of them is raised at once.
        """
        yield from self.finished
        todo = [candidate for candidate in self.plan.candidates if self.log.get(candidate) is None]
        with contextlib.closing(ProgressBar(progress, self.plan.steps * len(todo))) as bar:
            ready = []
            for candidate in todo:
                bar.describe(f"tracing {candidate.name}")
                ready.append(_lower(candidate, self.setting))
            for one in ready:
                entry = _train(self.plan, one, self.setting, bar)
                self.log.add(one.candidate, entry)
                yield entry


def _lower(candidate: Candidate, setting: Setting) -> _Ready:
    rates = jnp.asarray([1.0 if rate is None else rate for rate in candidate.rates], jnp.float32)
    begin: Callable[..., Any] = jax.jit(functools.partial(start, candidate.build), static_argnums=1)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        carry = jax.eval_shape(begin, rates, len(rates), setting.starts)
        lowered = jax.jit(training(setting.task, candidate.build), donate_argnums=1).lower(
            rates, carry, setting.order, index, index, setting.train, setting.probe
        )
    except (TypeError, ValueError) as error:
        raise CannotRunError(
            f"compare: argument 'optimizers' must hold optimizers that train on the task; "
            f"got '{candidate.name}', which cannot be compared here: {error}"
        ) from error
    params, state = carry
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    first = functools.partial(begin, rates, len(rates), setting.starts)
    return _Ready(candidate, rates, begin, first, lowered, size / count)


class _Runs(NamedTuple):
    """The runs at some rates: the loss at [rate, seed, evaluation], and the scores."""

    rates: tuple[float | None, ...]
    losses: np.ndarray
    score: np.ndarray | None

    def and_beyond(self, other: "_Runs") -> "_Runs":
        """These runs and those at other rates, in the order of rates."""
        order = np.argsort([rate or 0.0 for rate in (*self.rates, *other.rates)])
        losses = np.concatenate([self.losses, other.losses])[order]
        score = None
        if self.score is not None and other.score is not None:
            score = np.concatenate([self.score, other.score])[order]
        rates = [*self.rates, *other.rates]
        return _Runs(tuple(rates[i] for i in order), losses, score)


def _train(plan: Plan, ready: _Ready, setting: Setting, bar: ProgressBar) -> Entry:
    bar.describe(f"compiling {ready.candidate.name}")
    began = time.perf_counter()
    program = ready.lowered.compile()
    compiled = time.perf_counter()
    bar.describe(ready.candidate.name)

    def entry(runs: _Runs) -> Entry:
        return Entry.of_losses(
            runs.losses,
            plan.evaluated_at,
            plan.target,
            name=ready.candidate.name,
            learning_rates=list(runs.rates),
            score=None if runs.score is None else runs.score.tolist(),
            state_bytes_per_parameter=ready.bytes_per_parameter,
            seconds=time.perf_counter() - compiled,
            compile_seconds=compiled - began,
            describe=lambda rate: repr(ready.candidate.build(rate)),
        )

    runs = _runs(plan, ready.candidate.rates, ready.start, program, setting, bar)
    made = entry(runs)
    for _ in range(EXTENSIONS if plan.extends else 0):
        if not made.best_is_at_the_end:
            break
        # As many rates as before, so that the same program runs them.
        rates = _beyond(runs.rates, len(ready.candidate.rates), above=made.best > 0)
        bar.extend(plan.steps)
        values = jnp.asarray(rates, jnp.float32)
        begin = functools.partial(ready.begin, values, len(rates), setting.starts)
        runs = runs.and_beyond(_runs(plan, rates, begin, program, setting, bar))
        made = entry(runs)
    return made


def _beyond(rates: tuple[Any, ...], count: int, above: bool) -> tuple[float, ...]:
    """As many rates again, beyond the last one or below the first, in the steps of the grid."""
    found = list(rates) if above else list(rates[::-1])
    # Half decades are 1 and 3 in turn, so a grid goes on in the steps of every second rate.
    period = min(2, len(found) - 1)
    factor = found[-1] / found[-1 - period]
    for _ in range(count):
        found.append(found[-period] * factor)
    return tuple(sorted(found[len(rates) :]))


def _runs(
    plan: Plan,
    rates: tuple[float | None, ...],
    begin: Callable[[], Any],
    program: Callable[..., Any],
    setting: Setting,
    bar: ProgressBar,
) -> _Runs:
    """Trains from all seeds at some rates."""
    values = jnp.asarray([1.0 if rate is None else rate for rate in rates], jnp.float32)
    carry = begin()
    losses = [np.tile(np.asarray(setting.first)[None], (len(rates), 1))]
    for first, last in itertools.pairwise(plan.evaluated_at):
        carry, loss = program(
            values, carry, setting.order, np.int32(first), np.int32(last), setting.train, setting.probe
        )
        losses.append(np.asarray(loss))
        bar.advance(last - first)
    return _Runs(rates, np.stack(losses, axis=-1).astype(float), scores(plan.task, carry))
