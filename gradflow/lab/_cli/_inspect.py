"""`python -m gradflow trajectory`, `list` and `describe`."""

import argparse
from typing import Any

from gradflow._tables import terminal_width
from gradflow.lab._cli._arguments import numbers, split
from gradflow.lab._cli._catalogue import description, listing
from gradflow.lab._cli._output import add_out, make_out
from gradflow.lab._experiments._trajectory import DEFAULTS, trajectory
from gradflow.lab._optional import optional
from gradflow.lab._tasks._test_functions import LANDSCAPES

_PATHS = f"""\
A name is tried at many learning rates and drawn at its best; an expression runs unchanged. trajectory.png
is the picture, trajectory.json has the points.

functions: {", ".join(LANDSCAPES)}
default optimizers: {", ".join(DEFAULTS)}

examples:
  python -m gradflow trajectory
  python -m gradflow trajectory beale --optimizers "momentum,adam,adam(0.1, b1=0.5)" --steps 300
  python -m gradflow trajectory himmelblau --start=-1,2 --out pictures
"""

_DESCRIBED = """\
Expressions are parsed, never evaluated: gradflow's own names, numbers, strings, and nested calls of these.

examples:
  python -m gradflow describe adamw
  python -m gradflow describe "adamw(1e-3)"
  python -m gradflow describe "chain(clip_by_global_norm(1.0), adamw(cosine_decay_schedule(1e-3, 1000)))"
"""


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    form: Any = argparse.RawDescriptionHelpFormatter
    paths = commands.add_parser(
        "trajectory",
        help="draw the paths of optimizers on a function of two variables",
        description="Draws the paths of optimizers on a function of two variables.",
        epilog=_PATHS,
        formatter_class=form,
    )
    option = paths.add_argument
    option("function", nargs="?", default="rosenbrock", help="the function's name (default: rosenbrock)")
    option("--optimizers", type=split, metavar="A,B,...", help="names or expressions (default: see below)")
    option("--start", type=numbers, metavar="X,Y", help="where the paths begin (default: the function's)")
    option("--steps", type=int, default=200, metavar="N", help="number of steps (default: 200)")
    option("--learning-rates", type=numbers, metavar="X,Y,...", help="rates for names (default: 1e-4 to 10)")
    option("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: 0)")
    add_out(paths)
    paths.set_defaults(run=_trajectory)

    names = commands.add_parser(
        "list",
        help="list all optimizers with the size of their state",
        description="Lists optimizers, with the bytes of state per parameter, and wrappers, one per line.",
    )
    names.add_argument("pattern", nargs="?", default="", help="list only lines that contain this text")
    names.set_defaults(run=_list)

    one = commands.add_parser(
        "describe",
        help="describe an optimizer, a stage or a schedule: its arguments, addresses and state",
        description="Describes an optimizer, a stage or a schedule.",
        epilog=_DESCRIBED,
        formatter_class=form,
    )
    one.add_argument("expression", help='a name, or an expression: "adamw(1e-3)"')
    one.set_defaults(run=_describe)


def _trajectory(given: argparse.Namespace) -> int:
    optional("matplotlib.figure", "the picture")
    make_out(given.out)
    result = trajectory(
        given.optimizers, given.function, start=given.start, steps=given.steps,
        learning_rates=given.learning_rates, seed=given.seed,
    )  # fmt: skip
    print(result.table(width=terminal_width()))
    print("Written: " + ", ".join(map(str, result.save(given.out))))
    return 0


def _list(given: argparse.Namespace) -> int:
    print(listing(given.pattern, terminal_width()))
    return 0


def _describe(given: argparse.Namespace) -> int:
    print(description(given.expression))
    return 0
