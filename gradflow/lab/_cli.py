"""The command line: `python -m gradflow compare`."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from gradflow.lab._contenders import DEFAULTS, optimizer_names
from gradflow.lab._optional import optional
from gradflow.lab._plan import prepare
from gradflow.lab._result import Entry
from gradflow.lab._program import CannotRunError
from gradflow.lab._run import run
from gradflow.lab._tasks import TASKS

_PROGRAM = "python -m gradflow"

_EPILOG = """\
Without options: the optimizers that every text teaches, on handwritten digits, each at six learning rates
and from five seeds. Every optimizer is one compiled program. The table ranks them by the median number of
steps to the target loss, each at its best rate; comparison.png and comparison.json have everything.

examples:
  python -m gradflow compare
  python -m gradflow compare --optimizers sgd,adam,lion --task text --steps 2000
  python -m gradflow compare --optimizers adam --learning-rates 1e-3,3e-3,1e-2 --seeds 10 --out results

default optimizers:
  {usual}

all optimizers that can be named:
  {names}
"""


def _wrapped(names: Sequence[str]) -> str:
    return "\n  ".join(textwrap.wrap(", ".join(names), 100))


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1e-3,1e-2") from None


def _seeds(text: str) -> int | list[int]:
    try:
        found = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of seeds nor a list such as 0,1,5"
        ) from None
    return found[0] if len(found) == 1 and "," not in text else found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Tools for choosing an optimizer.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    compare = commands.add_parser(
        "compare",
        help="train optimizers side by side on real data and rank them",
        description="Trains optimizers side by side on real data and ranks them.",
        epilog=_EPILOG.format(usual=_wrapped(DEFAULTS), names=_wrapped(optimizer_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = compare.add_argument
    add("--task", default="digits", metavar="NAME", help=f"{', '.join(TASKS)} (default: digits)")
    add(
        "--optimizers", type=lambda text: [word.strip() for word in text.split(",") if word.strip()],
        metavar="A,B,...", help="names with commas between (default: see below)",
    )  # fmt: skip
    add(
        "--learning-rates", type=_numbers, metavar="X,Y,...",
        help="the same rates for all (default: six around each optimizer's usual rate, half a decade apart)",
    )  # fmt: skip
    add("--seeds", type=_seeds, default=5, metavar="N", help="how many seeds, or which: 0,1,5 (default: 5)")
    add("--steps", type=int, metavar="N", help="training steps (default: 500; for text 1000)")
    add("--target", type=float, metavar="LOSS", help="the training loss to reach (default: the task's)")
    add(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to write (default: the current directory)",
    )
    return parser


def _complain(message: object, status: int) -> int:
    print(f"{_PROGRAM} compare: error: {message}", file=sys.stderr)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0, 2 for wrong usage, 1 for a missing package, 130 after Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        # Before the training, not after it.
        optional("tqdm", "the progress bar")
        optional("matplotlib.figure", "the picture")
        plan = prepare(
            given.optimizers, given.task, learning_rates=given.learning_rates, seeds=given.seeds,
            steps=given.steps, target=given.target,
        )  # fmt: skip
        given.out.mkdir(parents=True, exist_ok=True)
    except ImportError as error:
        return _complain(error, 1)
    except ValueError as error:
        return _complain(error, 2)
    except OSError as error:
        return _complain(f"cannot write into --out {given.out}: {error.strerror}", 2)
    entries: list[Entry] = []
    interrupted = False
    try:
        for entry in run(plan):
            entries.append(entry)
    except KeyboardInterrupt:
        interrupted = True
    except CannotRunError as error:
        return _complain(error, 2)
    except ImportError as error:
        return _complain(error, 1)
    result = plan.result(entries)
    print("\n" + result.table())
    if interrupted:
        print(f"Interrupted: {len(entries)} of {len(plan.contenders)} optimizers were finished.")
    if entries:
        print("Written: " + ", ".join(map(str, result.save(given.out))))
    return 130 if interrupted else 0
