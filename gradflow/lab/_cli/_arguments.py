"""Reads arguments of the command line from text."""

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from gradflow._errors import unknown
from gradflow.lab._candidates._parse import parse_value
from gradflow.lab._candidates._search_space import Range

PROGRAM = "python -m gradflow"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class CommandLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with a near name or all names for an unknown one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses all arguments. An unknown one ends the program here, so the error names this command."""
        args = sys.argv[1:] if args is None else list(args)
        if args:
            self._check_first(args[0])
        given, rest = super().parse_known_args(args, namespace)
        self._check_options(rest)
        if rest:
            self.error(f"there is no place for {' '.join(rest)!r}")
        return given, rest

    def _check_first(self, word: str) -> None:
        """Refuses an unknown option before the command, whose value would be taken for the command."""
        self._check_options([word])
        commands = self._commands()
        if commands and not word.startswith("-") and word not in commands:
            self.error(str(unknown("command", word, commands)))

    def _check_options(self, words: Sequence[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for name in (word.partition("=")[0] for word in words if word.startswith("-")):
            if any(option.startswith(name) for option in self._option_string_actions):
                continue
            commands = self._commands()
            after = f" Other options come after a command: {', '.join(commands)}." if commands else ""
            self.error(f"{unknown('option', name, known)}{after}")

    def _commands(self) -> list[str]:
        return [name for action in self._actions if action.dest == "command" for name in action.choices or ()]

    def error(self, message: str) -> NoReturn:
        """Ends the program with code 2 and one line; `--help` has the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def wrapped(names: Sequence[str]) -> str:
    """Wraps names into lines of a help text."""
    return "\n  ".join(textwrap.wrap(", ".join(names), 100))


def split(text: str, at: str = ",") -> list[str]:
    """Splits a text at commas that are not inside brackets."""
    parts, depth, begin = [], 0, 0
    for i, letter in enumerate(text):
        depth += letter in "([{"
        depth -= letter in ")]}"
        if letter == at and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [part.strip() for part in (*parts, text[begin:]) if part.strip()]


def numbers(text: str) -> list[float]:
    """Reads numbers separated by commas."""
    try:
        return [float(word) for word in split(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a list of numbers, such as 1e-3,1e-2; got {text!r}"
        ) from None


def seeds(text: str) -> int | list[int]:
    """Reads a number of seeds, or a list of seeds."""
    try:
        found = [int(word) for word in split(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number of seeds or a list such as 0,1,5; got {text!r}"
        ) from None
    return found[0] if len(found) == 1 and "," not in text else found


def memory(text: str) -> int:
    """Reads a size of memory, such as 500M or 2G, as bytes."""
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)i?b?", text.strip().lower())
    try:
        if match is None:
            raise ValueError
        return int(float(match[1]) * _UNITS[match[2]])
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a size of memory, such as 500M or 2G; got {text!r}"
        ) from None


def axis(text: str) -> tuple[str, Any]:
    """Reads an axis: `ADDRESS=V,V,...` or `ADDRESS=LOW..HIGH[:SCALE][:POINTS]`."""
    address, equals, values = text.partition("=")
    if not equals or not address.strip() or not values.strip():
        raise argparse.ArgumentTypeError(
            f"must be ADDRESS=VALUES, such as learning_rate=1e-4..1e-1 or b1=0.8,0.9; got {text!r}"
        )
    try:
        if ".." in values:
            return address.strip(), _range(values)
        return address.strip(), [parse_value(word) for word in split(values)]
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _range(text: str) -> Range:
    ends, *rest = text.split(":")
    low, _, high = ends.partition("..")
    try:
        found: dict[str, Any] = {"low": float(low), "high": float(high)}
    except ValueError:
        raise ValueError("a range must be LOW..HIGH, such as 1e-4..1e-1") from None
    for word in rest:
        if word.isdigit():
            found["points"] = int(word)
        else:
            found["scale"] = word
    return Range(**found)
