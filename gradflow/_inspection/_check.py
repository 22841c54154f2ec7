"""check: likely mistakes in a transformation that runs without errors."""

from typing import Any

import jax

from gradflow._calls._checks import as_arrays
from gradflow._checked import ARRAYS, Number, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._inspection._expression_checks import (
    expression_findings,
    matrix_findings,
    schedule_findings,
)
from gradflow._inspection._findings import CheckResult
from gradflow._inspection._projection_checks import projection_findings
from gradflow._inspection._trial_steps import gradient_findings, trial_steps
from gradflow._types import Params, Updates
from gradflow.packed._pack import abstract_tree


@checked(params=ARRAYS, grads=ARRAYS | None, steps=Number(0, 10_000, whole=True, static=True) | None)
def check(
    tx: GradientTransformation,
    params: Params,
    grads: Updates | None = None,
    *,
    steps: int | None = None,
    **extra: Any,
) -> CheckResult:
    """Looks for likely mistakes in the expression of `tx` and in two trial steps.

    Finds updates that increase the loss, a learning rate that is applied twice or never, clipping after the
    rate, weight decay on biases and norms, an embedding or a head under an optimizer for hidden matrices,
    averages in a dtype too narrow for their decay, float16 parameters without `master_params` or
    `with_loss_scale`, gradients of the wrong shape, a warm-up longer than the schedule or the training, a
    state whose type changes (each step would be compiled again), buffers that cannot be donated, and a
    projection that moves points of its own set.

    Args:
      tx: any transformation.
      params: arrays, or `jax.ShapeDtypeStruct`s, for which no trial steps are run.
      grads: gradients of a typical step; random ones by default.
      steps: the planned number of updates, to check schedules.
      **extra: the extra arguments that `tx` needs, such as `value`.

    The result prints one line per finding, with its stage and a hint.
    """
    tx = as_transformation(tx, "check", "the first argument")
    params = as_arrays(params)
    findings = [
        *expression_findings(tx, abstract_tree(params)),
        *matrix_findings(tx, params),
        *schedule_findings(tx, steps),
    ]
    wrong_grads = [] if grads is None else list(gradient_findings(params, grads))
    if wrong_grads:
        return CheckResult((*wrong_grads, *findings))
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params)):
        return CheckResult(tuple(findings))
    return CheckResult((*trial_steps(tx, params, grads, extra), *findings, *projection_findings(tx, params)))
