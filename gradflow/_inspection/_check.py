"""check: what runs and is wrong all the same."""

from typing import Any

import jax

from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._inspection._expression_checks import _read, _schedules, _tables_as_matrices
from gradflow._inspection._findings import CheckResult
from gradflow._inspection._trial_steps import _gradients, _run
from gradflow._types import Params, Updates
from gradflow.packed._pack import abstract_tree


def check(
    tx: GradientTransformation,
    params: Params,
    grads: Updates | None = None,
    *,
    steps: int | None = None,
    **extra: Any,
) -> CheckResult:
    """Takes two steps with `tx`, reads its expression, and says what is probably not meant.

    Finds an update that climbs, a learning rate that is applied twice or never, clipping behind the
    rate, weight decay on biases and norms, an embedding or a head under an optimizer for hidden matrices,
    averages in a dtype too narrow for their decay, gradients of other shapes, a warm-up that is not over when
    the schedule or the training is, a state that changes its type (each step would compile again), and
    buffers that cannot be donated.

    Args:
      tx: any transformation.
      params: arrays, or `jax.ShapeDtypeStruct`s, with which nothing is run.
      grads: gradients as a step would give them; random ones by default.
      steps: the number of updates planned, for the schedules.
      **extra: the extra arguments that `tx` needs, such as `value`.

    The result prints one finding a line, with its stage and a cure.
    """
    tx = as_transformation(tx, "check", "the first argument")
    findings = [
        *_read(tx, abstract_tree(params)), *_tables_as_matrices(tx, params), *_schedules(tx, steps),
    ]  # fmt: skip
    wrong_grads = [] if grads is None else list(_gradients(params, grads))
    if wrong_grads:
        return CheckResult((*wrong_grads, *findings))
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params)):
        return CheckResult(tuple(findings))
    return CheckResult((*_run(tx, params, grads, extra), *findings))
