"""`python -m gradflow compare`."""

import argparse
from typing import Any

from gradflow.lab._candidates._recipes import DEFAULTS, optimizer_names
from gradflow.lab._cli._arguments import numbers, seeds, split, wrapped
from gradflow.lab._cli._output import add_out, make_out, needed_packages
from gradflow.lab._experiments._compare_run import run
from gradflow.lab._experiments._plan import prepare
from gradflow.lab._results._comparison import Entry
from gradflow.lab._tasks._catalog import TASKS

_EPILOG = """\
Without options, the optimizers of most textbooks are trained on handwritten digits, each at six learning
rates and from five seeds. Every optimizer is one compiled program. The table ranks them by the median number
of steps to the target loss, each at its best rate, and marks neighbors whose order the seeds do not settle.
comparison.png and comparison.json hold the whole result.

examples:
  python -m gradflow compare
  python -m gradflow compare --optimizers sgd,adam,lion --task text --steps 2000
  python -m gradflow compare --optimizers "adam,adamw(1e-3, weight_decay=0.1)"
  python -m gradflow compare --optimizers lbfgs,adam --task ode
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
    option("--target", type=float, metavar="LOSS", help="the training loss to reach (default: the task's)")
    add_out(compare)
    compare.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    needed_packages()
    plan = prepare(
        given.optimizers, given.task, learning_rates=given.learning_rates, seeds=given.seeds,
        steps=given.steps, target=given.target,
    )  # fmt: skip
    make_out(given.out)
    entries: list[Entry] = []
    interrupted = False
    try:
        for entry in run(plan):
            entries.append(entry)
    except KeyboardInterrupt:
        interrupted = True
    result = plan.result(entries)
    print("\n" + result.table())
    if interrupted:
        print(f"Interrupted: {len(entries)} of {len(plan.candidates)} optimizers were finished.")
    if entries:
        print("Written: " + ", ".join(map(str, result.save(given.out))))
    return 130 if interrupted else 0
