"""Conversion of transformations to and from Optax."""

import importlib
from typing import Any

from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs, stage_of


def to_optax(tx: GradientTransformation) -> Any:
    """Converts `tx` to an `optax.GradientTransformationExtraArgs` of the same two functions.

    Optax's own wrappers and numpyro's adapter check for that type before they pass extra arguments. Raises
    ImportError if Optax is not installed.
    """
    tx = as_transformation(tx, "to_optax", "the argument")
    try:
        optax = importlib.import_module("optax")
    except ImportError:
        raise ImportError("to_optax: Optax is not installed: pip install optax") from None
    return optax.GradientTransformationExtraArgs(tx.init, tx.update)


def from_optax(tx: Any) -> GradientTransformation:
    """Converts Optax's transformation, or any pair `(init, update)`, to one of gradflow's, with equal states.

    The result has an expression, so that a composition with it prints, compares and has addresses. Extra
    arguments that its update does not take are left out. Wrappers and factories convert their arguments so.
    """
    whole = getattr(tx, "gradient_transformation", None)  # Optax's MultiSteps is not a pair
    tx = whole() if callable(whole) else tx
    is_pair = isinstance(tx, tuple) and len(tx) == 2
    if is_pair and not isinstance(tx, GradientTransformation) and stage_of(GradientTransformation(*tx)):
        return GradientTransformationExtraArgs(*tx)  # gradflow's own, back from to_optax
    return as_transformation(tx, "from_optax", "the argument")
