"""A training step for any optimizer: one evaluation of loss and gradient, and the update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._misplaced import refuse_misplaced
from gradflow._checked import FLAG, FLOATS, LOSS_FIRST, checked
from gradflow._core._apply import apply_updates
from gradflow._core._call import UpdatePart
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation, stage_of, stages_of
from gradflow._dtypes import is_complex
from gradflow._rules._state import at_least_float32
from gradflow._types import OptState, Params, Updates
from gradflow.transforms._value_and_grad import stored_or_computed, stored_value_and_grad
from gradflow.wrappers._loss_scale import loss_scale, unscaled

_SEARCHES = ("scale_by_backtracking_linesearch", "scale_by_zoom_linesearch", "lbfgsb")


class StepResult(NamedTuple):
    """The loss before the step, and the auxiliary output of the loss function."""

    value: jax.Array
    aux: Any = None


@checked(loss_fn=LOSS_FIRST, has_aux=FLAG, same_batch=FLAG)
def make_step(
    loss_fn: Callable[..., Any],
    tx: GradientTransformation,
    *,
    has_aux: bool = False,
    same_batch: bool = False,
) -> Callable[..., tuple[Params, OptState, StepResult]]:
    """`step(params, state, *batch, **extra) -> params, state, StepResult(value, aux)` for any optimizer.

    The loss and its gradient are computed once. Stages that take these extra arguments receive `value`,
    `grad` as `jax.grad` returns it, `value_fn(params)`, also as `obj_fn`, and `grad_fn(params, index)`, for
    this batch. `extra` is passed on to `tx.update`. Complex gradients are conjugated, so that their negative
    descends. Around `with_loss_scale` the loss is multiplied before it is differentiated; `value` and
    `grad` are those of the loss itself.

    Args:
      loss_fn: `f(params, *batch)`, a real scalar, or a pair `(scalar, aux)` with `has_aux`.
      tx: the optimizer; the first `state` is `tx.init(params)`.
      same_batch: promises that the batch never changes. Then value and gradient where a line search ended
        are those of the next step, and are read from its state. This needs a search that is the last stage
        and stores the gradient; without one it changes nothing.

    The step is pure and not compiled: use `jax.jit(step, donate_argnums=(0, 1))`, or scan over it. Raises
    ValueError for `same_batch` with `has_aux`, because states do not store auxiliary outputs.
    """
    if has_aux and same_batch:
        raise ValueError("make_step: argument 'same_batch' must be False with 'has_aux'; got True")
    tx = as_transformation(tx, "make_step", "argument 'tx'")
    scaled = scales_the_loss(tx)
    kept = same_batch and not scaled and ends_in_search(tx)

    @checked(params=FLOATS)
    def step(
        params: Params, state: OptState, *batch: Any, **extra: Any
    ) -> tuple[Params, OptState, StepResult]:
        def loss(params: Params) -> Any:
            return loss_fn(params, *batch)[0] if has_aux else loss_fn(params, *batch)

        value, grad = stored_value_and_grad(state) if kept else (None, None)
        aux = None
        try:
            if value is not None and grad is not None:
                value, grad = stored_or_computed(loss, value, grad, params, (), {})
            elif scaled:
                (value, aux), grad = _scaled_value_and_grad(
                    loss_fn, has_aux, loss_scale(state), params, batch
                )
            elif has_aux:
                (value, aux), grad = jax.value_and_grad(loss_fn, has_aux=True)(params, *batch)
            else:
                value, grad = jax.value_and_grad(loss)(params)
        except ValueError as error:
            refuse_misplaced("make_step", {"params": params, "batch": batch}, error)
            raise
        own = unscaled(grad, loss_scale(state)) if scaled else grad
        arguments = {**extra_arguments_for(tx, loss, value, own), **extra}
        updates, state = tx.update(ascent_direction(grad), state, params, **arguments)
        return apply_updates(params, updates), state, StepResult(value, aux)

    return step


def ascent_direction(grad: Updates) -> Updates:
    """The direction of ascent: the gradient, conjugated for complex parameters."""
    return tree.conj(grad) if any(is_complex(g.dtype) for g in jax.tree.leaves(grad)) else grad


def extra_arguments_for(
    tx: GradientTransformation, loss: Callable[[Params], Any], value: Any, grad: Updates
) -> dict[str, Any]:
    """The extra arguments of `make_step` that a stage of `tx` takes.

    Third-party stages do not declare theirs; for them `value`, `grad` and `value_fn` are included.
    """
    known = {
        "value": value,
        "grad": grad,
        "value_fn": loss,
        "obj_fn": loss,
        "grad_fn": lambda params, index=0: ascent_direction(jax.grad(loss)(params)),
    }
    stages = list(stages_of(tx))
    taken = set().union(*(stage.takes for stage in stages))
    if any(stage.expression.name == "GradientTransformation" for stage in stages):
        taken |= {"value", "grad", "value_fn"}
    return {name: known[name] for name in known if name in taken}


def scales_the_loss(tx: GradientTransformation) -> bool:
    """Whether a stage divides the gradient of a multiplied loss by its factor."""
    return any(stage.expression.name == "with_loss_scale" for stage in stages_of(tx))


def _scaled_value_and_grad(
    loss_fn: Callable[..., Any], has_aux: bool, scale: jax.Array, params: Params, batch: tuple[Any, ...]
) -> tuple[tuple[Any, Any], Updates]:
    """`(value, aux)` of the loss, and the gradient of the loss times its factor."""

    def scaled(params: Params) -> Any:
        value, aux = loss_fn(params, *batch) if has_aux else (loss_fn(params, *batch), None)
        wide = jnp.asarray(value).astype(at_least_float32(jnp.result_type(value)))
        return wide * scale.astype(wide.dtype), (value, aux)

    grad, returned = jax.grad(scaled, has_aux=True)(params)
    return returned, grad


def ends_in_search(tx: GradientTransformation) -> bool:
    """Whether a line search is the last stage, so that its state describes the updated parameters."""
    stage: Stage | None = stage_of(tx)
    while stage is not None and stage.expression.name not in _SEARCHES:
        is_row = stage.expression.name in ("chain", "named_chain") or isinstance(stage.update, UpdatePart)
        stage = stage.children[-1] if is_row and stage.children else None
    return stage is not None
