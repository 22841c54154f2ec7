"""States among the inputs and outputs of functions that `jax.export` writes to a file."""

import functools
import importlib

from gradflow import _api
from gradflow._core._transformation import GradientTransformation


def register_for_export() -> None:
    """Registers gradflow's states with `jax.export`, as inputs and outputs of exported functions.

    Call it before `Exported.serialize`, and before `jax.export.deserialize` in the process that runs the
    function. The stored names of states, such as "gradflow.ScaleByAdamState", are stable.
    """
    _register()


@functools.cache
def _register() -> None:
    export = importlib.import_module("jax.export")
    for kind in state_types():
        try:
            export.register_namedtuple_serialization(kind, serialized_name=f"gradflow.{kind.__name__}")
        except ValueError:
            continue  # the program has already registered it


def state_types() -> list[type]:
    """gradflow's public NamedTuples of arrays, of which all states consist."""
    public = vars(_api).values()
    kinds = {
        kind
        for kind in public
        if isinstance(kind, type) and issubclass(kind, tuple) and not issubclass(kind, GradientTransformation)
    }
    return sorted(kinds, key=lambda kind: kind.__name__)
