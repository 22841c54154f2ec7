"""The output of commands: its directory, and the packages that it needs."""

from pathlib import Path
from typing import Any

from gradflow.lab._optional import optional


def add_out(command: Any) -> None:
    """Adds the option for the directory of the results."""
    command.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to write (default: the current directory)",
    )


def make_out(out: Path) -> None:
    """Makes the directory of the results before training begins."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write into --out {out}: {error.strerror}") from None


def add_quiet(command: Any) -> None:
    """Adds the option that leaves only the table."""
    command.add_argument("--quiet", action="store_true", help="print the table alone, without a progress bar")


def shows_bar(given: Any) -> bool | None:
    """Whether a progress bar is shown; None for the default."""
    return False if given.quiet else None


def needed_packages() -> None:
    """Raises ImportError before training for a package that is needed after it."""
    optional("matplotlib.figure", "the picture")
