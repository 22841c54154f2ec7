"""A transformation on some steps only, which a function of the step chooses."""

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
    """Applies `inner` on the steps that a function chooses. On others updates pass as they come.

    Args:
      inner: its state changes, and its schedules move, on the chosen steps only; extra arguments reach it.
      should_transform_fn: `f(step) -> bool`, where step is the count of calls, from 0.
      forward_extra_args: calls it with the extra arguments of update, too.

    To leave steps out altogether use `conditionally_mask`. Reports `transformed`. Raises TypeError or
    ValueError if the function returns anything but one boolean.
    """

    def init(params: Params) -> OptState:
        return ConditionallyTransformState(inner.init(params), zero_scalar(params))

    def update(
        updates: Updates, state: ConditionallyTransformState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyTransformState]:
        take = _ask(should_transform_fn, state.step, extra if forward_extra_args else {})
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
    """

    def init(params: Params) -> OptState:
        return ConditionallyMaskState(zero_scalar(params), inner.init(params))

    def update(
        updates: Updates, state: ConditionallyMaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyMaskState]:
        take = _ask(should_transform_fn, state.step, extra if forward_extra_args else {})
        updates, inner_state = update_if(take, inner, updates, state.inner_state, params, extra)
        return updates, ConditionallyMaskState(increment(state.step), inner_state)

    return init, update


def _ask(condition: ConditionFn, step: jax.Array, extra: Mapping[str, Any]) -> jax.Array:
    """Whether the inner transformation is applied at this step."""
    answer = condition(step, **extra)
    try:
        take = jnp.asarray(answer)
    except (TypeError, ValueError):
        take = None
    if take is None or take.dtype != bool:
        raise TypeError(
            f"{stage_name()}: 'should_transform_fn' must return True or False, or a boolean array; it "
            f"returned {describe(answer)}"
        )
    if take.shape != ():
        raise ValueError(
            f"{stage_name()}: 'should_transform_fn' must return one boolean; it returned {describe(answer)}"
        )
    report("transformed", take)
    return take
