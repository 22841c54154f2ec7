"""`sweep`: tries many values of any hyper-parameters of one expression."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._checked import FLAG, TEXT, checked
from gradflow._expressions._printing import show
from gradflow.lab._arguments import COUNT, FILE, LOSS, PARAMS, SEED, SEEDS
from gradflow.lab._candidates._candidates import one_optimizer
from gradflow.lab._candidates._search_space import Range, Space, Values, read_space
from gradflow.lab._experiments._plan import check_seeds, check_whole_number, evaluations
from gradflow.lab._experiments._program import Setting, set_up
from gradflow.lab._experiments._progress_bar import ProgressBar
from gradflow.lab._experiments._sweep_run import Rung, SweepRun
from gradflow.lab._experiments._trial_log import TrialLog
from gradflow.lab._results._sweep import SweepResult
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._task import Task

METHODS = ("grid", "random", "halving")


@checked(
    loss_fn=LOSS,
    params=PARAMS,
    method=TEXT,
    trials=COUNT | None,
    seeds=SEEDS,
    steps=COUNT | None,
    rank_by=TEXT,
    eta=COUNT,
    seed=SEED,
    file=FILE,
    memory=COUNT | None,
    progress=FLAG | None,
)
def sweep(
    optimizer: Any,
    space: Mapping[str, Iterable[Any] | Range],
    *,
    task: str | Task | None = None,
    loss_fn: Callable[..., Any] | None = None,
    params: Any = None,
    batches: Any = None,
    method: str = "grid",
    trials: int | None = None,
    seeds: int | Iterable[int] = 1,
    steps: int | None = None,
    rank_by: str = "loss",
    eta: int = 3,
    seed: int = 0,
    file: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Trains with many values of some hyper-parameters in one program, and ranks them.

        sweep("adamw(1e-3)", {"learning_rate": Range(1e-4, 1e-1), "b1": [0.8, 0.9, 0.95]}).plot()

    Args:
      optimizer: a transformation, its expression as text, or a name.
      space: a list of values or a `Range` by address, as in `replace`. Numbers of hyper-parameters share one
        compiled program; each combination of other arguments, flags or whole stages, has its own.
      task, loss_fn, params, batches, progress: as in `compare`.
      method: "grid", every combination; "random", `trials` draws (32); "halving", successive halving
        (Jamieson & Talwalkar 2016) of `trials` draws (27), or of the grid where every axis is a list; the
        best 1 / `eta` continue, to `eta` times the steps.
      seeds: the number of seeds of each trial, or the seeds. `seed`: the seed of the draws.
      rank_by: "loss", the median of the last training loss, or "score", the task's on its test data.
      file: where finished trials are written; a sweep that is called again continues from there.
      memory: bytes to use at once; trials that do not fit run later. By default most of the free memory.
    """
    plan = plan_sweep(
        optimizer, space, task, loss_fn, params, batches, method, trials, seeds, steps, rank_by, eta, seed
    )
    log = plan.open_log(file)
    plan.run(log, memory, progress)
    return log.result()


class SweepPlan(NamedTuple):
    """A sweep that has been checked and is ready to run."""

    space: Space
    trials: list[Values]
    rungs: list[Rung]
    setting: Setting
    header: dict[str, Any]

    def open_log(self, file: str | os.PathLike[str] | None) -> TrialLog:
        """Opens the log of trials, which begins with those in the file."""
        return TrialLog(file, self.header)

    def run(self, log: TrialLog, memory: int | None, progress: bool | None) -> None:
        """Trains the trials that the log does not have yet."""
        if memory is not None and not memory > 0:
            raise ValueError(f"sweep: argument 'memory' must be a number of bytes above 0; got {memory!r}")
        total, last, alive = 0, 0, len(self.trials)
        for rung in self.rungs:
            total += alive * (rung.steps - last)
            alive, last = rung.keep, rung.steps
        done = sum(min(trial.steps, self.rungs[-1].steps) for trial in log.trials.values())
        with contextlib.closing(ProgressBar(progress, total, min(done, total))) as bar:
            run = SweepRun(
                self.space, self.trials, self.setting, self.header["evaluated_at"], log, memory, bar
            )
            run.run(self.rungs, self.header["rank_by"])


def plan_sweep(
    optimizer: Any,
    space: Any,
    task: Any = None,
    loss_fn: Any = None,
    params: Any = None,
    batches: Any = None,
    method: str = "grid",
    trials: int | None = None,
    seeds: Any = 1,
    steps: int | None = None,
    rank_by: str = "loss",
    eta: int = 3,
    seed: int = 0,
) -> SweepPlan:
    """Checks `sweep`'s arguments; raises ValueError or TypeError for a wrong one."""
    if method not in METHODS:
        raise ValueError(f"sweep: argument 'method' must be one of {', '.join(METHODS)}; got {method!r}")
    if rank_by not in ("loss", "score"):
        raise ValueError(f"sweep: argument 'rank_by' must be 'loss' or 'score'; got {rank_by!r}")
    check_whole_number("sweep", "eta", eta, 2)
    if steps is not None:
        check_whole_number("sweep", "steps", steps, 1)
    if trials is not None:
        check_whole_number("sweep", "trials", trials, 1)
    found = read_space(one_optimizer(optimizer, "sweep"), space)
    drawn = _trials(found, method, trials, seed)
    for values in drawn:
        found.at(values)  # the factories check the values
    chosen = choose_task(task, loss_fn, params, batches, steps, "sweep")
    if rank_by == "score" and (chosen.score_fn is None or chosen.test is None):
        raise ValueError(
            f"sweep: argument 'rank_by' must be 'loss' for a task without a score; "
            f"got 'score' for '{chosen.name}', but it needs a task with a score"
        )
    steps = chosen.steps if steps is None else int(steps)
    at = evaluations(steps)
    which = check_seeds("sweep", seeds)
    setting = set_up(chosen, which, steps, "sweep")
    header = {
        "task": chosen.name,
        "expression": repr(found.tx),
        "brief": show(found.tx),
        "space": {axis.address: axis.write() for axis in found.axes},
        "method": method,
        "steps": steps,
        "evaluated_at": at,
        "seeds": list(which),
        "rank_by": rank_by,
        "score_name": chosen.score_name if chosen.score_fn is not None else None,
        "trials": len(drawn),
        "draws_from": seed,
        "eta": eta if method == "halving" else None,
        "first_losses": np.asarray(jax.device_get(setting.first), float).tolist(),
    }
    rungs = _rungs(len(drawn), at, eta) if method == "halving" else [Rung(steps, len(drawn))]
    return SweepPlan(found, drawn, rungs, setting, header)


def _trials(space: Space, method: str, trials: int | None, seed: int) -> list[Values]:
    if method == "grid" or (method == "halving" and trials is None and space.is_finite):
        if trials is not None:
            raise ValueError(
                "sweep: argument 'trials' must be left out, since a grid has as many trials as "
                f"combinations; got {trials}"
            )
        return space.grid()
    return space.draws(trials or (32 if method == "random" else 27), seed)


def _rungs(count: int, at: list[int], eta: int) -> list[Rung]:
    """The rungs of successive halving: the best 1 / eta continue to eta times the steps, down to one."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // eta))
    last = at[-1]
    rungs: list[Rung] = []
    for i, size in enumerate(sizes):
        wanted = last / eta ** (len(sizes) - 1 - i)
        step = next(step for step in at[1:] if step >= wanted or step == last)
        if rungs and rungs[-1].steps == step:
            rungs.pop()  # both rungs round to the same step
        rungs.append(Rung(step, sizes[i + 1] if i + 1 < len(sizes) else size))
    return rungs
