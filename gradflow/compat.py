"""The field's module names for gradflow's functions: `import gradflow.compat as optax`.

    optax.adam                 gradflow.adam, and so for every name of the top level
    optax.contrib.muon         gradflow.muon; alike in `transforms`, `schedules`
    optax.tree_utils.tree_add  gradflow.tree.add
    optax.losses, optax.tree, optax.projections, ...   the rooms themselves

Nothing is defined here. The README's table "Differences from Optax" says where a name does something else.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

# The names that the field has given up, and what took their place.
_GIVEN_UP = {
    "global_norm": "tree.norm",
    "optimistic_adam": "optimistic_adam_v2",
    "inject_stateful_hyperparams": "inject_hyperparams",
    "tree_scalar_mul": "tree.scale",
    "tree_add_scalar_mul": "tree.add_scale",
    "tree_l1_norm": "tree.norm(tree, ord=1)",
    "tree_l2_norm": "tree.norm",
    "tree_linf_norm": "tree.norm(tree, ord=jnp.inf)",
    "second_order": "jax.hessian, jax.jvp",
}


class _Namespace(ModuleType):
    """A module whose names, behind a prefix, are those of another."""

    def __init__(self, name: str, source: str, prefix: str = "") -> None:
        super().__init__(f"{__name__}.{name}", f"The names of {source} as the field spells them.")
        self._source = source
        self._prefix = prefix
        sys.modules[self.__name__] = self

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            source = importlib.import_module(self._source)
            for spelling in (name.removeprefix(self._prefix), name):
                if name not in _GIVEN_UP and hasattr(source, spelling):
                    return getattr(source, spelling)
        raise AttributeError(_unknown(self.__name__, name))

    def __dir__(self) -> list[str]:
        return [f"{self._prefix}{name}" for name in dir(importlib.import_module(self._source))]


def _unknown(module: str, name: str) -> str:
    cure = f"; use {_GIVEN_UP[name]}" if name in _GIVEN_UP else ""
    return f"module '{module}' has no attribute '{name}'{cure}"


contrib = _Namespace("contrib", "gradflow")
transforms = _Namespace("transforms", "gradflow")
schedules = _Namespace("schedules", "gradflow")
tree_utils = _Namespace("tree_utils", "gradflow.tree", "tree_")
experimental = _Namespace("experimental", "gradflow")


def __getattr__(name: str) -> Any:
    gradflow = importlib.import_module("gradflow")
    if name.startswith("_") or name in _GIVEN_UP or not hasattr(gradflow, name):
        raise AttributeError(_unknown(__name__, name))
    return getattr(gradflow, name)


def __dir__() -> list[str]:
    own = ["contrib", "transforms", "schedules", "tree_utils", "experimental"]
    return sorted({*own, *dir(importlib.import_module("gradflow"))})
