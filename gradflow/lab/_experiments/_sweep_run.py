"""Runs the trials of a sweep, as many at once as fit in memory."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._expressions._printing import show
from gradflow.lab._candidates._search_space import Space, Values
from gradflow.lab._experiments._memory import free_bytes, is_out_of_memory, needed_bytes
from gradflow.lab._experiments._program import CannotRunError, Carry, Setting, scores, start, training
from gradflow.lab._experiments._progress_bar import ProgressBar
from gradflow.lab._experiments._trial_log import TrialLog
from gradflow.lab._results._sweep import trial_of


class Rung(NamedTuple):
    """A rung of successive halving: trials are trained to `steps`, then the best `keep` continue."""

    steps: int
    keep: int


class _Program:
    """The compiled programs, by width, of a group of trials that differ only in traced numbers."""

    def __init__(self, space: Space, fixed: Values, setting: Setting) -> None:
        def build(traced: Any) -> Any:
            return space.at({**fixed, **traced})

        self._setting = setting
        self._start = jax.jit(functools.partial(start, build), static_argnums=1)
        self._training = jax.jit(training(setting.task, build), donate_argnums=1)
        self._compiled: dict[int, Any] = {}

    def begin(self, values: Any, width: int) -> Carry:
        return self._start(values, width, self._setting.starts)

    def compiled(self, names: Sequence[str], width: int) -> Any:
        """The program for `width` trials at once."""
        if width not in self._compiled:
            s = self._setting
            values = {name: jax.ShapeDtypeStruct((width,), jnp.float32) for name in names}
            index = jax.ShapeDtypeStruct((), jnp.int32)
            try:
                carry = jax.eval_shape(lambda v: self.begin(v, width), values)
                lowered = self._training.lower(values, carry, s.order, index, index, s.train, s.probe)
            except (TypeError, ValueError) as error:
                raise CannotRunError(
                    "sweep: argument 'optimizer' must train on the task; "
                    f"got one that cannot be swept here: {error}"
                ) from error
            self._compiled[width] = lowered.compile()
        return self._compiled[width]


class SweepRun:
    """The state of one call of `sweep`."""

    def __init__(
        self,
        space: Space,
        trials: Sequence[Values],
        setting: Setting,
        evaluated_at: Sequence[int],
        log: TrialLog,
        memory: int | None,
        bar: ProgressBar,
    ) -> None:
        self._space, self._trials, self._setting = space, trials, setting
        self._at, self._log, self._bar = list(evaluated_at), log, bar
        self._memory = memory
        self._programs: dict[str, _Program] = {}
        self._kept: dict[int, tuple[int, Any, np.ndarray]] = {}  # trial -> step, carry, losses
        self._narrow: dict[str, int] = {}  # group -> the width of its chunks, which fits

    def run(self, rungs: Sequence[Rung], rank_by: str) -> None:
        """Trains the trials rung by rung, and adds finished trials to the log."""
        alive = list(range(len(self._trials)))
        for i, rung in enumerate(rungs):
            todo = [
                index
                for index in alive
                if index not in self._log.trials or self._log.trials[index].steps < rung.steps
            ]
            for group in self._groups(todo):
                self._train(group, rung.steps, keep=i + 1 < len(rungs))
            # Trials that an earlier call trained beyond this rung were kept there, so they come first.
            alive = sorted(alive, key=lambda index: (self._key(index, rung.steps, rank_by), index))[
                : rung.keep
            ]
            alive.sort()
            self._kept = {index: kept for index, kept in self._kept.items() if index in alive}

    def _key(self, index: int, steps: int, rank_by: str) -> tuple[float, float]:
        trial = self._log.trials[index]
        if trial.steps == steps:
            return trial.key(rank_by)
        # Only trials that were kept have more steps.
        return (-np.inf, 0.0)

    def _groups(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Yields groups of trials that share a program and a first step."""
        groups: dict[tuple[str, int], list[int]] = {}
        for index in indices:
            _, fixed = self._space.split(self._trials[index])
            first = self._kept[index][0] if index in self._kept else 0
            groups.setdefault((repr(fixed), first), []).append(index)
        yield from groups.values()

    def _train(self, group: Sequence[int], steps: int, keep: bool) -> None:
        """Trains the trials of one group to `steps`, in chunks that fit in memory."""
        left = list(group)
        while left:
            width = self._width(left)
            chunk, rest = left[:width], left[width:]
            try:
                self._run_chunk(chunk, width, steps, keep)
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error) or width == 1:
                    raise
                self._narrow[self._group_of(left[0])] = max(1, width // 2)
                continue
            left = rest

    def _group_of(self, index: int) -> str:
        return repr(self._space.split(self._trials[index])[1])

    def _program(self, index: int) -> _Program:
        name = self._group_of(index)
        if name not in self._programs:
            fixed = self._space.split(self._trials[index])[1]
            self._programs[name] = _Program(self._space, fixed, self._setting)
        return self._programs[name]

    def _width(self, left: Sequence[int]) -> int:
        """The number of these trials to run at once."""
        group = self._group_of(left[0])
        narrow = self._narrow.get(group)
        if narrow is not None and 2 * len(left) > narrow:
            return narrow  # a smaller chunk is padded, which costs less than compiling again
        names = list(self._space.split(self._trials[left[0]])[0])
        limit = free_bytes() if self._memory is None else self._memory
        width = len(left)
        while True:
            # Chunks of one width share a program; equal chunks leave the last one the least padding.
            width = -(-len(left) // -(-len(left) // width))
            self._bar.describe(f"compiling for {width} trials at once")
            needed = needed_bytes(self._program(left[0]).compiled(names, width))
            if needed <= limit or width == 1:
                break
            width = max(1, min(width - 1, int(width * limit / needed)))
        if width < len(left):
            self._narrow[group] = width
        return width

    def _run_chunk(self, chunk: Sequence[int], width: int, steps: int, keep: bool) -> None:
        s, at = self._setting, self._at
        rows = [*chunk, *[chunk[-1]] * (width - len(chunk))]
        split = [self._space.split(self._trials[index])[0] for index in rows]
        values = {n: jnp.asarray([v[n] for v in split], jnp.float32) for n in split[0]}
        program = self._program(chunk[0])
        compiled = program.compiled(list(values), width)
        if chunk[0] in self._kept:
            first = self._kept[chunk[0]][0]
            carry = jax.tree.map(lambda *x: jnp.stack(x), *(self._kept[index][1] for index in rows))
            losses = [np.stack([self._kept[index][2] for index in rows])]
        else:
            first, carry = 0, program.begin(values, width)
            losses = [np.tile(np.asarray(s.first)[None, :, None], (width, 1, 1))]
        self._bar.describe(f"{len(chunk)} of {len(self._trials)} trials")
        done = first
        try:
            for a, b in itertools.pairwise(at[at.index(first) : at.index(steps) + 1]):
                carry, loss = compiled(values, carry, s.order, np.int32(a), np.int32(b), s.train, s.probe)
                losses.append(np.asarray(loss)[..., None])
                done = b
                self._bar.advance((b - a) * len(chunk))
        except KeyboardInterrupt:
            self._write(chunk, done, losses, None)
            raise
        found = scores(s.task, carry)
        self._write(chunk, steps, losses, found)
        if keep:
            host = jax.tree.map(np.asarray, carry)
            curves = np.concatenate(losses, axis=-1)
            for i, index in enumerate(chunk):
                self._kept[index] = steps, jax.tree.map(lambda x, i=i: x[i], host), curves[i]

    def _write(self, chunk: Sequence[int], steps: int, losses: list[np.ndarray], found: Any) -> None:
        if not steps:
            return
        curves = np.concatenate(losses, axis=-1)
        for i, index in enumerate(chunk):
            values = self._trials[index]
            score = None if found is None else found[i]
            self._log.add(trial_of(index, values, steps, curves[i], score, show(self._space.at(values))))
