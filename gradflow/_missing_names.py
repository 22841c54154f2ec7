"""Errors for names that a module does not have, with the name that was meant."""

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from gradflow._errors import names_hint
from gradflow._vocabulary import explanation


def missing_name(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a module does not have."""
    message = f"module '{module}' has no attribute '{name}'"
    if name.startswith("_"):
        return AttributeError(message)
    hint = explanation(name) or names_hint(name, known, 0)
    return AttributeError(f"{message}. {hint}" if hint else message)


class _Room(ModuleType):
    """A module whose errors for unknown names have hints."""

    def __getattr__(self, name: str) -> Any:
        raise missing_name(self.__name__, name, self.__all__)


def with_hints(module: str) -> None:
    """Gives a module errors with hints, and lists its functions before its classes.

    Type checkers know its names as before, unlike with `__getattr__`. References follow `__all__`.
    """
    room: Any = sys.modules[module]
    room.__class__ = _Room
    room.__all__.sort(key=lambda name: (isinstance(getattr(room, name), type), name))
