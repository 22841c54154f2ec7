"""`python -m gradflow compare`."""

import argparse
from pathlib import Path
from typing import Any

from gradflow._tables import terminal_width
from gradflow.lab._candidates._recipes import DEFAULTS, optimizer_names
from gradflow.lab._cli._arguments import numbers, seeds, split, wrapped
from gradflow.lab._cli._interruptions import interruptible
from gradflow.lab._cli._output import add_out, add_quiet, make_out, needed_packages, shows_bar
from gradflow.lab._experiments._compare_run import CompareRun
from gradflow.lab._experiments._plan import prepare
from gradflow.lab._results._comparison import Entry
from gradflow.lab._tasks._catalog import TASKS
from gradflow.lab._tasks._files import task_of_module, task_of_table
from gradflow.lab._tasks._task import Task

_EPILOG = """\
Without options, the optimizers of most textbooks are trained on handwritten digits, each at six learning
rates and from five seeds. Every optimizer is one compiled program. The table ranks them by the median number
of steps to the target loss, each at its best rate, and marks neighbors whose order the seeds do not settle.
comparison.png and comparison.json hold the whole result. Finished optimizers are written to comparison.jsonl
at once, so the same command continues an interrupted comparison, also with more optimizers.

examples:
  python -m gradflow compare
  python -m gradflow compare --optimizers sgd,adam,lion --task text --steps 2000
  python -m gradflow compare --optimizers "adam,adamw(1e-3, weight_decay=0.1)"
  python -m gradflow compare --optimizers lbfgs,adam --task ode
  python -m gradflow compare --data table.csv --target price --optimizers sgd,adam
  python -m gradflow compare --module my_task.py
  python -m gradflow compare --optimizers adam --learning-rates 1e-3,3e-3,1e-2 --seeds 10 --out results

default optimizers:
  {usual}

all names of optimizers:
  {names}
"""


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="train optimizers side by side on real data and rank them",
        description="Trains optimizers side by side on real data and ranks them.",
        epilog=_EPILOG.format(usual=wrapped(DEFAULTS), names=wrapped(optimizer_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = compare.add_argument
    option("--task", default="digits", metavar="NAME", help=f"{', '.join(TASKS)} (default: digits)")
    option(
        "--optimizers", type=split, metavar="A,B,...",
        help="names or expressions, separated by commas (default: see below)",
    )  # fmt: skip
    option(
        "--learning-rates", type=numbers, metavar="X,Y,...",
        help="the same rates for all (default: six around each optimizer's usual rate, half a decade apart)",
    )  # fmt: skip
    option(
        "--seeds", type=seeds, default=5, metavar="N", help="number of seeds, or a list: 0,1,5 (default: 5)"
    )
    option("--steps", type=int, metavar="N", help="training steps (default: the task's, 500 or 1000)")
    option(
        "--target", metavar="LOSS",
        help="the training loss to reach (default: the task's); with --data, the column to predict instead",
    )  # fmt: skip
    option(
        "--module", type=Path, metavar="FILE",
        help="a Python file that defines init, loss and batches, and batch_size, test and metric if you like",
    )  # fmt: skip
    option("--data", type=Path, metavar="FILE", help="a CSV file with a header, or an npz file with x and y")
    add_out(compare)
    add_quiet(compare)
    compare.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    needed_packages()
    task, target = _task(given)
    plan = prepare(
        given.optimizers, task, learning_rates=given.learning_rates, seeds=given.seeds, steps=given.steps,
        target=target,
    )  # fmt: skip
    make_out(given.out)
    file = given.out / "comparison.jsonl"
    comparison = CompareRun.of(plan, file)
    if comparison.finished and not given.quiet:
        many = f"{len(comparison.finished)} of {len(plan.candidates)} optimizers"
        print(f"{file} has {many} already; continuing from there.")
    entries: list[Entry] = []
    interrupted = False
    try:
        with interruptible():
            for entry in comparison.entries(shows_bar(given)):
                entries.append(entry)
    except KeyboardInterrupt:
        interrupted = True
    result = plan.result(entries)
    print("\n" + result.table(width=terminal_width()))
    if interrupted:
        done = f"{len(entries)} of {len(plan.candidates)} optimizers were finished"
        print(f"Interrupted: {done}. The same command continues from here.")
    written = [file] if file.exists() else []
    if entries:
        written += result.save(given.out)
    if written and not given.quiet:
        print("Written: " + ", ".join(map(str, written)))
    return 130 if interrupted else 0


def _task(given: argparse.Namespace) -> tuple[str | Task, float | None]:
    """The task, by name or from a file, and the loss to reach."""
    if given.data is not None:
        if given.module is not None:
            raise ValueError("--data must be left out with --module; got both")
        return task_of_table(given.data, given.target), None
    try:
        target = None if given.target is None else float(given.target)
    except ValueError:
        raise ValueError(f"--target must be a number without --data; got {given.target!r}") from None
    return (given.task if given.module is None else task_of_module(given.module, given.steps)), target
