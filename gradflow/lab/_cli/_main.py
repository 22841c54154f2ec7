"""The command line: `python -m gradflow`."""

import argparse
import os
import sys
from collections.abc import Sequence

from gradflow.lab._cli import _compare, _inspect, _sweep
from gradflow.lab._cli._arguments import PROGRAM, CommandLineParser
from gradflow.lab._experiments._program import CannotRunError

_EPILOG = """\
Each command lists examples: python -m gradflow sweep --help

exit codes: 0 done, 1 a package is missing (the message says how to install it), 2 wrong usage,
130 interrupted with Ctrl-C; finished results have been written
"""


def _parser() -> argparse.ArgumentParser:
    parser = CommandLineParser(
        prog=PROGRAM,
        description="Tools for choosing an optimizer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = sys.modules["gradflow"].__version__
    parser.add_argument("--version", action="version", version=f"gradflow {version}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    _compare.add(commands)
    _sweep.add(commands)
    _inspect.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0, 2 for wrong usage, 1 for a missing package, 130 after Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status = int(given.run(given))
        sys.stdout.flush()
        return status
    except ImportError as error:
        return _print_error(given.command, error, 1)
    except (CannotRunError, TypeError, ValueError) as error:
        return _print_error(given.command, error, 2)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _print_error(given.command, f"cannot write {error.filename}: {error.strerror}", 2)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def _print_error(command: str, message: object, status: int) -> int:
    print(f"{PROGRAM} {command}: error: {message}", file=sys.stderr)
    return status
