"""Builds a transformation from a factory and its frozen arguments."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

import gradflow._core._pytrees  # noqa: F401  # makes transformations pytrees
from gradflow._core._call import InitPart, UpdatePart
from gradflow._core._plain_pairs import as_transformation, wrap_plain_pair
from gradflow._core._scheduled import follow_schedules
from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs, stage_of
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expressions._expression import Expression, children, map_values
from gradflow._expressions._factory import Factory
from gradflow._expressions._functions import FunctionValue
from gradflow._expressions._registry import KINDS, ValueKind


def build(factory: Factory, arguments: Mapping[str, Any]) -> GradientTransformation:
    """The transformation of a factory for arguments that are frozen and checked."""
    expression = Expression(factory, arguments)
    children, arguments = _label_children(arguments)
    arguments = _integer_arrays_as_floats(factory, arguments)
    made = factory.call_body(arguments)
    # Stages inside check their own leaves; what takes real ones alone says so itself.
    inside = factory.leaves if factory.leaves == "real" else None
    leaves = inside if children else factory.leaves
    # A subclass with methods of its own, such as MultiSteps, keeps its class.
    is_plain = not isinstance(made, GradientTransformation) or type(made) is GradientTransformation
    kind = GradientTransformationExtraArgs if is_plain else type(made)
    composed = stage_of(made) if isinstance(made, GradientTransformation) else None
    if composed is not None:
        children, leaves = (composed,), inside
    elif not (isinstance(made, tuple) and len(made) == 2 and all(map(callable, made))):
        raise TypeError(
            f"{factory.name}: a factory of transformations returns (init, update) or a "
            f"transformation; it returned {describe(made)}"
        )
    else:
        scheduled = {name: arguments[name] for name in factory.hyperparameters if callable(arguments[name])}
        if scheduled:
            made = follow_schedules(factory, arguments, scheduled)
    stage = Stage(
        expression, made[0], made[1], children, factory.reports, leaves, factory.trees, factory.packable,
        factory.sums,
    )  # fmt: skip
    return tuple.__new__(kind, (InitPart(stage), UpdatePart(stage)))


def _label_children(arguments: Mapping[str, Any]) -> tuple[tuple[Stage, ...], Mapping[str, Any]]:
    """The stages among the arguments, and the arguments with transformations under their labels."""
    found = children(arguments)
    labels = iter([child.label for child in found if isinstance(child.value, GradientTransformation)])
    stages: list[Stage] = []

    def label(value: Any) -> Any:
        if isinstance(value, FunctionValue):
            return value
        stage = cast(Stage, stage_of(value)).labelled(next(labels))
        stages.append(stage)
        return tuple.__new__(type(value), (InitPart(stage), UpdatePart(stage)))

    if not found:
        return (), arguments
    labelled = {name: map_values(value, label) for name, value in arguments.items()}
    return tuple(stages), labelled


def _integer_arrays_as_floats(factory: Factory, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, with hyper-parameters that are integer arrays converted to floating point."""
    for name in factory.hyperparameters:
        value = arguments[name]
        if type(value) is not float and isinstance(value, jax.Array) and not is_inexact(value.dtype):
            arguments = {**arguments, name: value.astype(np.float32)}
    return arguments


KINDS["transformation"] = ValueKind(build, wrap_plain_pair, as_transformation)
