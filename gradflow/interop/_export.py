"""States among the inputs and outputs of functions that `jax.export` writes to a file."""

import functools
import importlib

from gradflow import _api
from gradflow._core._transformation import GradientTransformation


def register_for_export() -> None:
    """Makes `jax.export` take gradflow's states, among the inputs and outputs of an exported function.

    To be called before `Exported.serialize`, and before `jax.export.deserialize` in the process that runs it.
    The names under which states are stored, such as "gradflow.ScaleByAdamState", do not change.
    """
    _register()


@functools.cache
def _register() -> None:
    export = importlib.import_module("jax.export")
    for kind in state_types():
        try:
            export.register_namedtuple_serialization(kind, serialized_name=f"gradflow.{kind.__name__}")
        except ValueError:
            continue  # the program has registered it by itself


def state_types() -> list[type]:
    """gradflow's public NamedTuples of arrays: all that states are made of."""
    public = vars(_api).values()
    kinds = {
        kind
        for kind in public
        if isinstance(kind, type) and issubclass(kind, tuple) and not issubclass(kind, GradientTransformation)
    }
    return sorted(kinds, key=lambda kind: kind.__name__)
