"""`sweep`: many values of any hyper-parameters of one expression."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._expressions._printing import show
from gradflow.lab._candidates._candidates import one_optimizer
from gradflow.lab._candidates._search_space import Range, Space, Values, read_space
from gradflow.lab._experiments._plan import check_seeds, evaluations, whole_number
from gradflow.lab._experiments._program import Setting, set_up
from gradflow.lab._experiments._progress_bar import Bar
from gradflow.lab._experiments._sweep_run import Rung, SweepRun
from gradflow.lab._experiments._trial_log import Ledger
from gradflow.lab._results._sweep import SweepResult
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._task import Task

METHODS = ("grid", "random", "halving")


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
    progress: bool = True,
) -> SweepResult:
    """Trains with many values of some hyper-parameters, all at once, and ranks them.

        sweep("adamw(1e-3)", {"learning_rate": Range(1e-4, 1e-1), "b1": [0.8, 0.9, 0.95]}).plot()

    Args:
      optimizer: a transformation, its expression as text, or a name.
      space: by address (as in `replace`) a list of values, or a `Range`. Numbers of hyper-parameters share
        one compiled program; of other arguments, flags or whole stages, each combination has its own.
      task, loss_fn, params, batches: as in `compare`.
      method: "grid", every combination; "random", `trials` draws (32); "halving", successive halving
        (Jamieson & Talwalkar 2016) of `trials` draws (27; of the grid, where every axis is a list): the best
        1 / `eta` go on from where they are, to `eta` times the steps.
      seeds: how many runs of each trial, or which. `seed`: of the draws.
      rank_by: "loss", the median of the last training loss, or "score", the task's on its test data.
      file: where finished trials are written; called again, the sweep goes on where it stopped.
      memory: bytes to use at once; trials that do not fit wait. By default most of what the device has free.
    """
    plan = plan_sweep(
        optimizer, space, task, loss_fn, params, batches, method, trials, seeds, steps, rank_by, eta, seed
    )
    ledger = plan.ledger(file)
    plan.run(ledger, memory, progress)
    return ledger.result()


class SweepPlan(NamedTuple):
    """A sweep that has been checked and is ready to run."""

    space: Space
    trials: list[Values]
    rungs: list[Rung]
    setting: Setting
    header: dict[str, Any]

    def ledger(self, file: str | os.PathLike[str] | None) -> Ledger:
        """Where trials are kept; with those that the file has already."""
        return Ledger(file, self.header)

    def run(self, ledger: Ledger, memory: int | None, progress: bool) -> None:
        """Trains what the ledger does not have yet."""
        if memory is not None and not memory > 0:
            raise ValueError(f"sweep: memory must be a number of bytes above 0; got {memory!r}")
        total, last, alive = 0, 0, len(self.trials)
        for rung in self.rungs:
            total += alive * (rung.steps - last)
            alive, last = rung.keep, rung.steps
        done = sum(min(trial.steps, self.rungs[-1].steps) for trial in ledger.trials.values())
        with contextlib.closing(Bar(progress, total, min(done, total))) as bar:
            run = SweepRun(
                self.space, self.trials, self.setting, self.header["evaluated_at"], ledger, memory, bar
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
        raise ValueError(f"sweep: method must be one of {', '.join(METHODS)}; got {method!r}")
    if rank_by not in ("loss", "score"):
        raise ValueError(f"sweep: rank_by must be 'loss' or 'score'; got {rank_by!r}")
    whole_number("eta", eta, 2)
    if steps is not None:
        whole_number("steps", steps, 1)
    if trials is not None:
        whole_number("trials", trials, 1)
    found = read_space(one_optimizer(optimizer, "sweep"), space)
    drawn = _trials(found, method, trials, seed)
    for values in drawn:
        found.at(values)  # the factories check them
    chosen = choose_task(task, loss_fn, params, batches, steps, "sweep")
    if rank_by == "score" and (chosen.score_fn is None or chosen.test is None):
        raise ValueError(f"sweep: rank_by='score' needs a task with a score; '{chosen.name}' has none")
    steps = chosen.steps if steps is None else int(steps)
    at = evaluations(steps)
    which = check_seeds(seeds)
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
            raise ValueError("sweep: a grid has as many trials as combinations; leave 'trials' out")
        return space.grid()
    return space.draws(trials or (32 if method == "random" else 27), seed)


def _rungs(count: int, at: list[int], eta: int) -> list[Rung]:
    """Successive halving: while more than one are left, the best 1 / eta go on to eta times the steps."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // eta))
    last = at[-1]
    rungs: list[Rung] = []
    for i, size in enumerate(sizes):
        wanted = last / eta ** (len(sizes) - 1 - i)
        step = next(step for step in at[1:] if step >= wanted or step == last)
        if rungs and rungs[-1].steps == step:
            rungs.pop()  # too few steps to tell these two apart
        rungs.append(Rung(step, sizes[i + 1] if i + 1 < len(sizes) else size))
    return rungs
