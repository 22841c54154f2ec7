"""`python -m gradflow sweep`."""

import argparse
from typing import Any

from gradflow._tables import terminal_width
from gradflow.lab._cli._arguments import axis, memory, seeds
from gradflow.lab._cli._interruptions import interruptible
from gradflow.lab._cli._output import add_out, add_quiet, make_out, needed_packages, shows_bar
from gradflow.lab._experiments._sweep import METHODS, plan_sweep
from gradflow.lab._tasks._catalog import TASKS

_EPILOG = """\
An axis is the address of a hyper-parameter, or a unique suffix of it, and its values (`describe` lists the
addresses):
  learning_rate=1e-4..1e-1           a range; a grid takes six points of it, evenly on a logarithmic scale
  learning_rate=1e-4..1e-1:10        ... ten points
  b2=0.9..0.9999:decay               ... on which 1 - b2 is logarithmic
  max_norm=0..2:linear:5             ... five points on a linear scale
  b1=0.8,0.9,0.95                    these values
  learning_rate=1e-3,"cosine_decay_schedule(1e-3, 500)"     a number, and a schedule

All trials that differ only in numbers share one compiled program, which runs in chunks that fit in memory.
Finished trials are written to sweep.jsonl at once, so the same command continues an interrupted sweep.

examples:
  python -m gradflow sweep "adamw(1e-3)" learning_rate=1e-4..1e-1 b1=0.8,0.9,0.95
  python -m gradflow sweep "chain(clip_by_global_norm(1.0), adam(1e-3))" max_norm=0.1..10 \\
      learning_rate=1e-4..1e-1 --method halving --trials 81 --task text --out results
"""


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    sweep = commands.add_parser(
        "sweep",
        help="try many values of any hyper-parameters of one optimizer",
        description="Trains one optimizer with many values of its hyper-parameters, and ranks them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = sweep.add_argument
    option("optimizer", help='a name, or an expression: "adamw(1e-3, weight_decay=0.1)"')
    option("axes", type=axis, nargs="+", metavar="ADDRESS=VALUES", help="what to vary; see below")
    option("--task", default="digits", metavar="NAME", help=f"{', '.join(TASKS)} (default: digits)")
    option(
        "--method",
        choices=METHODS,
        default="grid",
        help="every combination, random draws, or successive halving",
    )
    option("--trials", type=int, metavar="N", help="random draws (default: 32 for random, 27 for halving)")
    option(
        "--seeds", type=seeds, default=1, metavar="N", help="number of seeds, or a list: 0,1,5 (default: 1)"
    )
    option("--steps", type=int, metavar="N", help="training steps (default: the task's, 500 or 1000)")
    option(
        "--rank-by",
        choices=("loss", "score"),
        default="loss",
        help="training loss, or the score on test data",
    )
    option(
        "--memory",
        type=memory,
        metavar="SIZE",
        help="memory to use at once, such as 500M or 2G (default: free memory)",
    )
    add_out(sweep)
    add_quiet(sweep)
    sweep.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    needed_packages()
    space = dict(given.axes)
    if len(space) < len(given.axes):
        raise ValueError("argument 'ADDRESS=VALUES' must name each address once; got one twice")
    plan = plan_sweep(
        given.optimizer, space, given.task, method=given.method, trials=given.trials, seeds=given.seeds,
        steps=given.steps, rank_by=given.rank_by,
    )  # fmt: skip
    make_out(given.out)
    file = given.out / "sweep.jsonl"
    log = plan.open_log(file)
    if log.trials and not given.quiet:
        print(f"{file} has {len(log.trials)} of {len(plan.trials)} trials already; continuing from there.")
    interrupted = False
    try:
        with interruptible():
            plan.run(log, given.memory, progress=shows_bar(given))
    except KeyboardInterrupt:
        interrupted = True
    result = log.result()
    print("\n" + result.table(width=terminal_width()))
    written = [file] if file.exists() else []
    if result.trials:
        written += result.save(given.out)
    if interrupted:
        print("Interrupted. The same command continues from here.")
    if written and not given.quiet:
        print("Written: " + ", ".join(map(str, written)))
    return 130 if interrupted else 0
