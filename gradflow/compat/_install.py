"""Puts the compatibility modules in the place of optax."""

import sys
from collections.abc import Mapping
from types import ModuleType


def install(package: str, modules: Mapping[str, ModuleType]) -> None:
    """Registers a package, its modules and their parts under the names of optax.

    Raises RuntimeError if another module of that name has been imported.
    """
    present = sys.modules.get("optax")
    if present is not None and present is not sys.modules[package]:
        raise RuntimeError(
            "gradflow.compat.install: must be called before optax is imported; it has been imported from "
            f"{getattr(present, '__file__', 'an unknown place')}. Call install() first in the program."
        )
    sys.modules["optax"] = sys.modules[package]
    for name, module in modules.items():
        sys.modules[f"optax.{name}"] = module
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}.") and not name.startswith(
            (f"{package}._types", f"{package}._second")
        ):
            sys.modules.setdefault(f"optax.{name.removeprefix(f'{package}.')}", module)
