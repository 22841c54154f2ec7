"""What a run of several processes is: its settings, read from the command line and checked by name."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow.lab._candidates._parse import parse
from gradflow.lab._cli._arguments import CommandLineParser
from gradflow.lab._optional import optional
from gradflow.lab._tasks._catalog import TASKS, task_named
from gradflow.lab._tasks._task import Task

PROGRAM = "python -m gradflow.lab.distributed"
PEER_LOST = 3  # the exit code of a process whose exchange with another one failed
_DESCRIPTION = """\
Trains a task in several processes of this machine, which exchange their gradients over its loopback. Each
process takes its share of every batch, and with --zero it keeps its share of the optimizer's state alone. The
same command continues from the last checkpoint, also with another number of processes.
"""
_EPILOG = """\
If a process dies, the others are ended and the exit code is 1. The parent's last lines say which one died.

exit codes: 0 done, 1 a process died or a package is missing, 2 wrong usage, 130 interrupted with Ctrl-C

examples:
  python -m gradflow.lab.distributed --processes 4 --task text --zero
  python -m gradflow.lab.distributed --processes 2 --task digits --optimizer "muon(0.02)" --out run
"""
# What a restart may change: the numbers of the run stay the same, but for rounding.
_MAY_CHANGE = ("processes", "steps", "every", "out")


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings of a run; `out` has its checkpoints, and `every` counts the steps from one to the next."""

    processes: int
    task: str
    optimizer: str
    zero: bool
    steps: int
    every: int
    batch_size: int
    seed: int
    out: str

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.out).absolute()

    def transformation(self) -> GradientTransformation:
        """The optimizer, without what `zero` adds."""
        return as_transformation(parse(self.optimizer), "distributed", "argument '--optimizer'")


def read_run(arguments: Sequence[str] | None) -> Run:
    """The run of a command line; ValueError or ImportError for one that cannot be."""
    given = _parser().parse_args(arguments)
    for name, least in {"processes": 1, "steps": 1, "every": 1, "batch_size": 1, "seed": 0}.items():
        value = getattr(given, name)
        if value is not None and value < least:
            raise ValueError(f"argument '--{name.replace('_', '-')}' must be at least {least}; got {value}")
    task = task_named(given.task)
    if task.batch_size is None:
        raise ValueError(f"argument '--task' must be one whose batches can be shared out; got {task.name!r}")
    batch = given.batch_size or task.batch_size
    _check_batch(batch, given.processes, task)
    optional("orbax.checkpoint", "distributed training")
    steps = given.steps or task.steps
    run = Run(
        given.processes, given.task, given.optimizer, given.zero, steps, given.every or max(1, steps // 10),
        batch, given.seed, str(given.out),
    )  # fmt: skip
    run.transformation()
    return run


def _check_batch(batch: int, processes: int, task: Task) -> None:
    examples = jax.tree.leaves(task.train)[0].shape[0]
    if batch > examples:
        raise ValueError(f"argument '--batch-size' must be at most the {examples} examples; got {batch}")
    if batch % processes:
        raise ValueError(
            f"argument '--processes' must divide the batch of {batch} examples; got {processes}. "
            f"Pass --batch-size {-(-batch // processes) * processes}"
        )


def remember(run: Run) -> None:
    """Writes the settings of a new run; ValueError if it cannot, or those of another run are there."""
    path = run.directory / "run.json"
    if not path.exists():
        try:
            run.directory.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dataclasses.asdict(run), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"argument '--out': cannot write {error.filename}: {error.strerror}") from None
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: before[field.name] for field in dataclasses.fields(Run)}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"argument '--out' must be the directory of a run; {path} is damaged") from None
    for name, value in dataclasses.asdict(run).items():
        if name not in _MAY_CHANGE and known[name] != value:
            raise ValueError(
                f"argument '--{name.replace('_', '-')}' must be {known[name]!r}, as in the run that "
                f"{run.directory} continues; got {value!r}. Another --out begins a new run"
            )


def _parser() -> argparse.ArgumentParser:
    parser = CommandLineParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    option: Any = parser.add_argument
    option("--processes", type=int, default=2, metavar="N", help="number of processes (default: 2)")
    option("--task", default="text", metavar="NAME", help=f"{', '.join(TASKS)} (default: text)")
    option("--optimizer", default="adamw(1e-3)", metavar="EXPR", help="an expression (default: adamw(1e-3))")
    option("--zero", action="store_true", help="share out the optimizer's state with shard_state")
    option("--steps", type=int, metavar="N", help="training steps in all (default: the task's)")
    option("--every", type=int, metavar="K", help="steps between checkpoints (default: a tenth of --steps)")
    option("--batch-size", type=int, metavar="B", help="examples of all processes (default: the task's)")
    option("--seed", type=int, default=0, metavar="S", help="seed of parameters and batches (default: 0)")
    option(
        "--out", type=Path, default=Path("distributed_run"), metavar="DIR",
        help="checkpoints, logs and final parameters (default: distributed_run)",
    )  # fmt: skip
    return parser
