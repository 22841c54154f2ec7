"""Plain (init, update) pairs, ours or another library's, as transformations."""

from types import ModuleType
from typing import Any, cast

import jax
import numpy as np

from gradflow._core._transformation import GradientTransformationExtraArgs
from gradflow._errors import describe
from gradflow._expressions._factory import Factory, decorate
from gradflow._expressions._functions import ScheduleValue
from gradflow._expressions._keys import expression_of
from gradflow._types import Pair


def _plain(init: Any, update: Any) -> Pair:
    return init, update


# Its `__module__` keeps it out of gradflow's own factories: the functions in a plain pair are not ours.
_plain.__name__, _plain.__module__ = "GradientTransformation", "plain"
plain_pair: Any = decorate(_plain, "transformation", leaves="any")
plain_pair.__module__, plain_pair.__qualname__, plain_pair.__name__ = __name__, "plain_pair", "plain_pair"
_FACTORY: Factory = plain_pair.__gradflow__


def _is_pair(value: Any) -> bool:
    """Whether a value is a named tuple of `init` and `update`, or an object with these methods.

    A schedule with a state has them too, and is called.
    """
    if isinstance(value, tuple):
        return getattr(value, "_fields", None) == ("init", "update")
    if callable(value) or isinstance(value, ModuleType):
        return False
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def wrap_plain_pair(value: Any) -> Any:
    """A plain pair of functions, or an object with them, as a transformation; other values as they are."""
    if not _is_pair(value) or expression_of(value) is not None:
        return value
    init, update = value.init, value.update
    if not (callable(init) and callable(update)):
        raise TypeError(f"a transformation's init and update must be callable; got {describe(value)}")
    wrapped = _FACTORY.build({"init": init, "update": update})
    stage = wrapped.update.stage
    # In third-party code `params` may be optional although it has no default.
    stage.signature = stage.signature._replace(needs_params=False)
    # A class of pairs may declare how its trees differ. An object's attribute of that name may be anything.
    stage.trees = getattr(type(value), "trees", "differ") if isinstance(value, tuple) else "differ"
    return wrapped


def as_transformation(value: Any, owner: str, place: str) -> GradientTransformationExtraArgs:
    """`value` as a transformation; raises TypeError with a hint for anything else."""
    if _is_pair(value):
        return cast(GradientTransformationExtraArgs, wrap_plain_pair(value))
    hint = ""
    if getattr(value, "__gradflow__", None) is not None:
        hint = f" It is a factory: call it, as in {value.__name__}(...)."
    elif isinstance(value, ScheduleValue):
        hint = " A schedule goes into a stage: scale_by_learning_rate(schedule)."
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        hint = " A state goes to update, not here."
    elif isinstance(value, list | tuple):
        hint = " Pass the transformations one by one: put a * before it."
    elif isinstance(value, int | float | jax.Array | np.ndarray | np.generic):
        hint = " To multiply by a number use scale(number)."
    raise TypeError(f"{owner}: {place} must be a transformation; got {describe(value)}.{hint}")
