"""Modules made of the names of another one."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from gradflow._errors import names_hint
from gradflow.compat._deprecated import Deprecated


class Namespace(ModuleType):
    """A module with the names of another module, each after a prefix, and with deprecated names.

    It is found by `import`, private parts such as `contrib._muon` included. `from module import *` gives its
    public names, and those of `imported`: what a module of Optax has because it imports it.
    """

    def __init__(
        self,
        name: str,
        source: ModuleType,
        deprecated: Mapping[str, Deprecated] | None = None,
        more: Mapping[str, Any] | None = None,
        imported: Mapping[str, Any] | None = None,
        *,
        prefix: str = "",
    ) -> None:
        super().__init__(name, f"The names of {source.__name__} as Optax spells them.")
        self.__path__: list[str] = []
        self._source = source
        self._deprecated = deprecated or {}
        self._more = more or {}
        self._imported = imported or {}
        self._prefix = prefix
        sys.modules[name] = self

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return sorted({*self.__dir__(), *self._imported} - {"optax"})
        if name in self._deprecated:
            return self._deprecated[name].get(f"{self.__name__}.{name}")
        if name in self._more:
            return self._more[name]
        if not name.startswith("_"):
            for spelling in (name.removeprefix(self._prefix), name):
                if hasattr(self._source, spelling):
                    return getattr(self._source, spelling)
        if name in self._imported:
            return self._imported[name]
        raise AttributeError(unknown(self.__name__, name, dir(self)))

    def __dir__(self) -> list[str]:
        own = [f"{self._prefix}{name}" for name in public_names(self._source)]
        return sorted({*own, *self._more} - {*self._deprecated})


def public_names(module: ModuleType) -> list[str]:
    """The names of a module that do not begin with an underscore."""
    return [name for name in dir(module) if not name.startswith("_")]


def unknown(module: str, name: str, known: list[str] | None = None) -> str:
    """The text of the error for a name that a module does not have."""
    hint = names_hint(name, known, 0) if known and not name.startswith("_") else ""
    return f"module '{module}' has no attribute '{name}'{'. ' if hint else ''}{hint}"
