"""A line search that shrinks its step until Armijo's condition holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Fraction, Limit, PositiveLimit, Size
from gradflow._rules._leafwise import as_scalar
from gradflow._rules._roles import Other
from gradflow._rules._state import zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._linesearch_common import (
    Point,
    first_rate,
    line_along,
    number_dtype,
    print_search,
    scale_updates,
    with_old_dtypes,
)


class BacktrackingLinesearchInfo(NamedTuple):
    """Evaluations of the last search, and the violation of the condition; 0 if it holds."""

    num_linesearch_steps: jax.Array
    decrease_error: jax.Array


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """Step size of the last search, or its last trial if it took no step; loss, stored gradient and info."""

    learning_rate: jax.Array
    value: jax.Array
    grad: Other
    info: BacktrackingLinesearchInfo


class _Search(NamedTuple):
    steps: jax.Array
    trial: jax.Array
    last: jax.Array
    best: Point
    grad: Any  # at `best`
    done: jax.Array


@transformation(reports=("learning_rate", "evaluations"), elementwise=True)
def scale_by_backtracking_linesearch(
    max_backtracking_steps: Size,
    slope_rtol: Fraction = 1e-4,
    decrease_factor: Fraction = 0.8,
    increase_factor: PositiveLimit = 1.5,
    max_learning_rate: PositiveLimit = 1.0,
    atol: Limit = 0.0,
    rtol: Limit = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> Pair:
    """Multiplies the updates by a step size, shrunk until the loss decreases enough.

        f(p + rate * u) <= f(p) + rtol * |f(p)| + slope_rtol * rate * <u, grad> + atol

    Args:
      max_backtracking_steps: maximum number of evaluations of the loss, >= 1.
      slope_rtol: fraction of the decrease that the slope predicts, in [0, 1].
      decrease_factor: factor by which the step shrinks, in [0, 1].
      increase_factor: > 0, factor from the last step size to the first trial of the next search; 1
        keeps it, `inf` starts from `max_learning_rate`.
      max_learning_rate: the longest step, > 0; `inf` for no limit, where the first search begins at 1.
      atol, rtol: slack, >= 0.
      store_grad: evaluates the gradient with the loss and stores it for `value_and_grad_from_state`.
      verbose: prints each search.

    `update` needs the extra arguments `value`, `grad` as `jax.grad` returns it, and `value_fn`, which is
    called with the parameters and the other extra arguments that it names. A loss of NaN counts as too high.
    If no trial passes, the step with the lowest loss is taken; if none is lower, the step is 0 and the next
    search goes on from the last trial.
    Source: Nocedal & Wright 2006, algorithm 3.1.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.sgd(1.0), gf.scale_by_backtracking_linesearch(15)))
    chain(sgd(1.0), scale_by_backtracking_linesearch(15))
    """

    def init(params: Params) -> OptState:
        dtype = number_dtype(params)
        return ScaleByBacktrackingLinesearchState(
            learning_rate=zero_scalar(params, dtype, 1),
            value=zero_scalar(params, dtype, jnp.inf),
            grad=tree.zeros_like(params) if store_grad else None,
            info=BacktrackingLinesearchInfo(
                num_linesearch_steps=zero_scalar(params), decrease_error=zero_scalar(params, dtype, jnp.inf)
            ),
        )

    def update(
        updates: Updates,
        state: ScaleByBacktrackingLinesearchState,
        params: Params,
        *,
        value: Any,
        grad: Any,
        value_fn: Any,
        **extra: Any,
    ) -> tuple[Updates, ScaleByBacktrackingLinesearchState]:
        line = line_along(updates, params, value, grad, value_fn, extra, state.grad)
        start = line.start
        numbers = (slope_rtol, decrease_factor, increase_factor, max_learning_rate, atol, rtol)
        part, shrink, growth, limit, absolute, relative = (
            jax.lax.stop_gradient(as_scalar(number, line.dtype)) for number in numbers
        )
        level = jnp.abs(start.value)
        slack = absolute + relative * jnp.where(level < jnp.inf, level, 0)

        def decrease_error(at: Point) -> jax.Array:
            expected = start.value + part * at.rate * jnp.minimum(start.slope, 0)
            return jnp.maximum(at.value - expected - slack, 0)

        def next_trial(search: _Search) -> _Search:
            value, slope, grad = line.evaluate(search.trial)
            here = Point(search.trial, value, slope)
            usable = jnp.isfinite(value) & jnp.isfinite(slope)
            accepted = usable & (decrease_error(here) <= 0)
            keep = accepted | (usable & (value < search.best.value))
            best, kept = jax.tree.map(
                lambda new, old: jnp.where(keep, new, old), (here, grad), (search.best, search.grad)
            )
            return _Search(search.steps + 1, search.trial * shrink, search.trial, best, kept, accepted)

        kept = first_rate(state.learning_rate, jnp.where(limit < jnp.inf, limit, 1), line.dtype)
        first = jnp.minimum(kept * jnp.where((growth < jnp.inf) | (limit < jnp.inf), growth, 1), limit)
        begin = _Search(jnp.zeros((), jnp.int32), first, first, start, line.grad, jnp.asarray(False))
        found = jax.lax.while_loop(lambda s: ~s.done & (s.steps < max_backtracking_steps), next_trial, begin)
        best = found.best
        info = BacktrackingLinesearchInfo(found.steps, decrease_error(best))
        if verbose:
            print_search("scale_by_backtracking_linesearch", best, info)
        report("learning_rate", best.rate)
        report("evaluations", found.steps)
        next_start = line.next_rate(best.rate, found.last, kept)
        new_state = ScaleByBacktrackingLinesearchState(next_start, best.value, found.grad, info)
        return scale_updates(updates, best.rate), with_old_dtypes(new_state, state)

    return init, update
