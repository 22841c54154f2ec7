"""The field's module names for gradflow's functions: `import gradflow.compat as optax`.

    optax.adam                 gradflow.adam, and so for every name of the top level
    optax.contrib.muon         gradflow.muon; likewise in `transforms`, `schedules`
    optax.tree_utils.tree_add  gradflow.tree.add
    optax.losses, optax.tree, optax.projections, ...   the rooms themselves

This module defines nothing new. The README's table "Differences from Optax" lists names that behave
differently.
"""

import sys
from types import ModuleType
from typing import Any

from gradflow import (
    _api,
    aggregating,
    assignment,
    linalg,
    losses,
    microbatching,
    perturbations,
    projections,
    tree,
)

# Names that Optax has deprecated or removed, and their replacements.
_REPLACEMENTS = {
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
    """A module with the names of another module, each after a prefix."""

    def __init__(self, name: str, source: ModuleType, prefix: str = "") -> None:
        super().__init__(f"{__name__}.{name}", f"The names of {source.__name__} as Optax spells them.")
        self._source = source
        self._prefix = prefix
        sys.modules[self.__name__] = self

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for spelling in (name.removeprefix(self._prefix), name):
                if name not in _REPLACEMENTS and hasattr(self._source, spelling):
                    return getattr(self._source, spelling)
        raise AttributeError(_unknown(self.__name__, name))

    def __dir__(self) -> list[str]:
        return [f"{self._prefix}{name}" for name in _public(self._source)]


def _public(module: ModuleType) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]


def _unknown(module: str, name: str) -> str:
    hint = f"; use {_REPLACEMENTS[name]}" if name in _REPLACEMENTS else ""
    return f"module '{module}' has no attribute '{name}'{hint}"


_ROOMS = {
    room.__name__.rpartition(".")[2]: room
    for room in (assignment, linalg, losses, microbatching, perturbations, projections, tree)
}
contrib = _Namespace("contrib", _api)
transforms = _Namespace("transforms", _api)
schedules = _Namespace("schedules", _api)
tree_utils = _Namespace("tree_utils", tree, "tree_")
experimental = _Namespace("experimental", _api)
vars(experimental)["aggregating"] = aggregating


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return _ROOMS[name]
    if name.startswith("_") or name in _REPLACEMENTS or not hasattr(_api, name):
        raise AttributeError(_unknown(__name__, name))
    return getattr(_api, name)


def __dir__() -> list[str]:
    own = ["contrib", "transforms", "schedules", "tree_utils", "experimental"]
    return sorted({*own, *_ROOMS, *_public(_api)})
