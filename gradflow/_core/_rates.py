"""Which stages apply a learning rate."""

import numpy as np

from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._expressions._expression import Expression


def number(expression: Expression, name: str) -> float | None:
    """An argument that is a plain number; None if it is anything else."""
    value = expression.arguments.get(name)
    return float(value) if isinstance(value, int | float | np.number) else None


def sets_the_rate(stage: Stage) -> bool:
    """Whether a stage turns the updates into a step, by a learning rate or a negative factor."""
    arguments = stage.expression.arguments
    if stage.expression.name == "scale":
        factor = number(stage.expression, "step_size")
        return factor is not None and factor < 0
    if stage.expression.name == "injected":
        arguments = arguments["arguments"]
    return not stage.children and "learning_rate" in arguments


def rate_inside(tx: GradientTransformation) -> str | None:
    """The name of the first stage inside a transformation that applies a learning rate, if there is one."""
    return next((stage.expression.name for stage in stages_of(tx) if sets_the_rate(stage)), None)
