"""A transformation that is applied on the steps that a function of the step chooses."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if


class ConditionFn(Protocol):
    """`f(step, **extra) -> bool`: whether the inner transformation is applied at a step, from 0."""

    def __call__(self, step: Any, **extra_args: Any) -> Any: ...


class ConditionallyTransformState(NamedTuple):
    """The inner state, and the number of calls."""

    inner_state: OptState
    step: jax.Array


class ConditionallyMaskState(NamedTuple):
    """The number of calls, and the inner state."""

    step: jax.Array
    inner_state: OptState


@transformation(reports=("transformed",), elementwise=True)
def conditionally_transform(
    inner: GradientTransformation, should_transform_fn: ConditionFn, forward_extra_args: bool = False
) -> Pair:
    """Applies `inner` on the steps that a function chooses. On others updates pass through.

    Args:
      inner: its state and its schedules advance on the chosen steps only; it receives extra arguments.
      should_transform_fn: `f(step) -> bool`, where step is the count of calls, from 0.
      forward_extra_args: passes the extra arguments of update to `should_transform_fn` too.

    `conditionally_mask` makes the updates of the other steps zero. Reports `transformed`. Raises TypeError or
    ValueError if the function does not return one boolean.

    >>> import gradflow as gf
    >>> tx = gf.conditionally_transform(gf.clip(0.5), lambda step: step >= 100)
    >>> updates, state = tx.update(1.0, tx.init(0.0))
    >>> float(updates)
    1.0
    """

    def init(params: Params) -> OptState:
        return ConditionallyTransformState(inner.init(params), zero_scalar(params))

    def update(
        updates: Updates, state: ConditionallyTransformState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyTransformState]:
        take = _evaluate(should_transform_fn, state.step, extra if forward_extra_args else {})
        updates, inner_state = update_if(
            take, inner, updates, state.inner_state, params, extra, elsewhere="pass"
        )
        return updates, ConditionallyTransformState(inner_state, increment(state.step))

    return init, update


@transformation(reports=("transformed",), elementwise=True)
def conditionally_mask(
    inner: GradientTransformation, should_transform_fn: ConditionFn, forward_extra_args: bool = False
) -> Pair:
    """Applies `inner` on the steps that a function chooses. On others updates are zero.

    Arguments, reports and errors as in `conditionally_transform`.

    >>> import gradflow as gf
    >>> tx = gf.conditionally_mask(gf.sgd(0.1), lambda step: step % 2 == 0)
    >>> updates, state = tx.update(1.0, tx.init(0.0))
    >>> updates, state = tx.update(1.0, state)
    >>> float(updates)
    0.0
    """

    def init(params: Params) -> OptState:
        return ConditionallyMaskState(zero_scalar(params), inner.init(params))

    def update(
        updates: Updates, state: ConditionallyMaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyMaskState]:
        take = _evaluate(should_transform_fn, state.step, extra if forward_extra_args else {})
        updates, inner_state = update_if(take, inner, updates, state.inner_state, params, extra)
        return updates, ConditionallyMaskState(increment(state.step), inner_state)

    return init, update


def _evaluate(condition: ConditionFn, step: jax.Array, extra: Mapping[str, Any]) -> jax.Array:
    """Evaluates the condition: whether the inner transformation is applied at this step."""
    returned = condition(step, **extra)
    try:
        take = jnp.asarray(returned)
    except (TypeError, ValueError):
        take = None
    if take is None or take.dtype != bool:
        raise TypeError(
            f"{stage_name()}: argument 'should_transform_fn' must return True, False or a boolean array; "
            f"got {describe(returned)}"
        )
    if take.shape != ():
        raise ValueError(
            f"{stage_name()}: argument 'should_transform_fn' must return one boolean; "
            f"got {describe(returned)}"
        )
    report("transformed", take)
    return take
