"""gradflow: optimizers for JAX as values.

    loss --grad--> updates --[ stage > stage > scale_by_learning_rate ]--> updates --apply_updates--> params

The layers, each seeing only those above it:

    tree          arithmetic and paths on pytrees; `packed` keeps a tree in one buffer for each dtype
    _expressions  a call of a factory as a value; `_calls` tracks which stage runs, and checks the call
    _rules        applies the rule of one leaf to whole trees
    _core         GradientTransformation, the decorator `transformation`, chain, apply_updates
    _selection    which leaves: masks, labels, patterns of paths
    matrices      which axes of a leaf are a matrix's rows and columns; one rule over all matrices
    schedules     step -> value; `proximals` has penalties and their proximal operators
    transforms    building blocks: clipping, momentum, decay, noise, scaling
    wrappers      transformation -> transformation
    optimizers    one update rule per file, and the named optimizers
    _training     make_step and minimize: a loss and any optimizer; `_inspection` checks and summarizes
    states        the named tuples that optimizers keep
    checkpoint    a state by name: files, and expressions edited between runs
    sharding      on a mesh: where a state lies, and what an update communicates
    losses        predictions, targets -> loss; next to it projections, perturbations, assignment,
                  microbatching, linalg and numerics
    compat        the same names under Optax's module names
    lab           compares optimizers on real data; `python -m gradflow`
"""

import gc
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public rooms, such as `gradflow.losses` in `gradflow.losses.l2_loss`.
_ROOMS = frozenset([
    "tree", "typing", "states", "schedules", "transforms", "wrappers", "optimizers", "losses", "projections",
    "perturbations", "assignment", "microbatching", "linalg", "matrices", "numerics", "packed", "aggregating",
    "checkpoint", "sharding", "proximals", "interop", "compat", "lab",
])  # fmt: skip

if TYPE_CHECKING:
    from gradflow import aggregating as aggregating
    from gradflow import assignment as assignment
    from gradflow import checkpoint as checkpoint
    from gradflow import compat as compat
    from gradflow import interop as interop
    from gradflow import lab as lab
    from gradflow import linalg as linalg
    from gradflow import losses as losses
    from gradflow import matrices as matrices
    from gradflow import microbatching as microbatching
    from gradflow import numerics as numerics
    from gradflow import packed as packed
    from gradflow import perturbations as perturbations
    from gradflow import projections as projections
    from gradflow import proximals as proximals
    from gradflow import schedules as schedules
    from gradflow import sharding as sharding
    from gradflow import states as states
    from gradflow import tree as tree
    from gradflow import typing as typing
    from gradflow._api import *
else:
    # Nothing is imported before it is used: `import gradflow` adds a millisecond to the import of jax.
    def _import_names() -> Any:
        name = "gradflow._api"
        if name in sys.modules:
            return importlib.import_module(name)
        # Half of the import time would be garbage collections that scan all of jax.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return importlib.import_module(name)
        finally:
            if was_enabled:
                gc.enable()

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"gradflow.{name}")
        if name == "__all__":
            return _public()
        if name.startswith("_"):
            raise AttributeError(f"module 'gradflow' has no attribute '{name}'")
        names = _import_names()
        try:
            value = getattr(names, name)
        except AttributeError:
            missing_name = importlib.import_module("gradflow._missing_names").missing_name
            raise missing_name("gradflow", name, _public()) from None
        globals()[name] = value
        return value

    def _public() -> list[str]:
        return sorted({*(name for name in vars(_import_names()) if not name.startswith("_")), *_ROOMS})

    def __dir__() -> list[str]:
        # Ninety classes of states would stand before the first optimizer.
        states = set(importlib.import_module("gradflow.states").__all__)
        return [name for name in _public() if name not in states]

    class _FormerModule(ModuleType):
        """A private module that has moved, for pickles that refer to it."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return importlib.import_module("gradflow._former_modules").former_name(self.__name__, name)

    for _name in ("gradflow._base", "gradflow._stage", "gradflow._selectors", "gradflow._packed"):
        sys.modules[_name] = _FormerModule(_name)
