"""Transformations as Optax's and back."""

import importlib
from typing import Any

from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation, stage_of


def to_optax(tx: GradientTransformation) -> Any:
    """`tx` as an `optax.GradientTransformationExtraArgs` of the same two functions.

    For what asks for that type before it hands on extra arguments: Optax's own wrappers, numpyro's adapter.
    Raises ImportError where Optax is not installed.
    """
    tx = as_transformation(tx, "to_optax", "the argument")
    try:
        optax = importlib.import_module("optax")
    except ImportError:
        raise ImportError("to_optax: Optax is not installed: pip install optax") from None
    return optax.GradientTransformationExtraArgs(tx.init, tx.update)


def from_optax(tx: Any) -> GradientTransformation:
    """Optax's transformation, or any pair `(init, update)`, as one of gradflow's with the same states.

    It has an expression, so that what it is part of prints, compares and has addresses; extra arguments
    that its update does not take are left out. Every wrapper and factory does this to what it is given.
    """
    whole = getattr(tx, "gradient_transformation", None)  # Optax's MultiSteps is no pair
    tx = whole() if callable(whole) else tx
    is_pair = isinstance(tx, tuple) and len(tx) == 2
    if is_pair and not isinstance(tx, GradientTransformation) and stage_of(GradientTransformation(*tx)):
        return GradientTransformation(*tx)  # gradflow's own, back from to_optax
    return as_transformation(tx, "from_optax", "the argument")
