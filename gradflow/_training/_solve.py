"""The loop of a minimization: steps until the gradient is small, or is rounding error."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._core._apply import apply_updates
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_inexact
from gradflow._rules._state import stack_scalars
from gradflow._training._problem import Bounds, largest, loss_of, problem_of
from gradflow._training._result import CONVERGED, MAX_STEPS, NOT_FINITE, STALLED, MinimizeResult
from gradflow._training._step import ascent_direction, ends_in_search, extra_arguments_for, scales_the_loss
from gradflow._types import OptState, Params, Updates
from gradflow.proximals import Penalty
from gradflow.transforms._value_and_grad import store_value_and_grad, stored_value_and_grad
from gradflow.wrappers import eval_params, loss_scale

# Steps in a row without a change of the value, after which the gradient is compared with its rounding error.
_FLAT = 5


class _Counts(NamedTuple):
    """The counters of a solve, and two flags as 0 or 1.

    The loop carries them as one array: six scalars take a fifth of the time of a small solve.
    """

    steps: Any = 0
    evaluations: Any = 0
    still: Any = 0  # steps in a row that did not change the parameters
    flat: Any = 0  # steps in a row that did not change the value, since the last look at the noise
    is_noise: Any = 0  # whether the gradient is rounding error
    failed: Any = 0

    def pack(self) -> jax.Array:
        return stack_scalars(self, np.int32)


class _Progress(NamedTuple):
    params: Params
    state: OptState
    value: jax.Array
    grad: Updates | None  # None if the state stores it
    norm: jax.Array
    numbers: jax.Array

    @property
    def counts(self) -> _Counts:
        return _Counts(*self.numbers)


def solve(
    loss_fn: Callable[..., Any],
    tx: GradientTransformation | None,
    params: Params,
    args: tuple[Any, ...],
    prox: Penalty | None,
    bounds: Bounds | None,
    max_steps: jax.Array,
    tol: jax.Array,
) -> MinimizeResult:
    loss = loss_of("minimize", loss_fn, args)
    tx, begin_at, into, residual = problem_of(tx, params, prox, bounds)
    outset, params = params, begin_at(params)
    value, grad = jax.value_and_grad(loss)(params)
    state = tx.init(params)
    scaled = scales_the_loss(tx)
    keeps = ends_in_search(tx) and stored_value_and_grad(state)[1] is not None
    if keeps:
        state = store_value_and_grad(state, value, grad)
    norm = residual(params, grad)
    scale = largest(grad)
    epsilon = float(jnp.finfo(value.dtype).eps)

    def noise(params: Params, grad: Updates) -> jax.Array:
        """The largest change of the gradient when the parameters are rounded otherwise."""
        other = jax.grad(loss)(jax.tree.map(_next_numbers, params))
        change = largest(jax.tree.map(jnp.subtract, other, grad))
        # A jump of the gradient, as in |x|, is not rounding error.
        return jnp.where(change <= epsilon**0.5 * scale, change, 0)

    def step(now: _Progress) -> _Progress:
        counts = now.counts
        grad = stored_value_and_grad(now.state)[1] if keeps else now.grad
        given = tree.scale(loss_scale(now.state), grad) if scaled else grad
        updates, state = tx.update(
            ascent_direction(given), now.state, now.params, **extra_arguments_for(tx, loss, now.value, grad)
        )
        params = into(apply_updates(now.params, updates))
        spent = _searched(state)
        if keeps:
            value, new_grad = stored_value_and_grad(state)
            value = value.astype(now.value.dtype)
        else:
            value, new_grad = jax.value_and_grad(loss)(params)
            spent = spent + 1
        norm = residual(params, new_grad)
        finite = jnp.isfinite(value) & (norm < jnp.inf)
        is_flat = jnp.abs(value - now.value) <= 2 * epsilon * jnp.abs(value)
        moved = any_differ(params, now.params)
        new_counts = _Counts(
            steps=counts.steps + 1,
            evaluations=counts.evaluations + spent,
            still=jnp.where(moved, 0, counts.still + 1),
            flat=jnp.where(is_flat, counts.flat + 1, 0),
            is_noise=counts.is_noise,
            failed=~finite,
        )
        return _Progress(
            params=tree.where(finite, params, now.params),
            state=state,
            value=jnp.where(finite, value, now.value),
            grad=None if keeps else new_grad,
            norm=jnp.where(finite, norm, now.norm),
            numbers=new_counts.pack(),
        )

    def judge(now: _Progress) -> _Progress:
        """Where the steps' point has converged, looks at the penalized one, which is the solution."""
        reached = now.norm <= tol.astype(now.norm.dtype)
        point = eval_params(now.state, now.params)
        norm = jax.lax.cond(reached, lambda p: residual(p, jax.grad(loss)(p)), lambda _: now.norm, point)
        counts = now.counts
        counts = counts._replace(evaluations=counts.evaluations + reached.astype(np.int32))
        return now._replace(norm=norm, numbers=counts.pack())

    def look(now: _Progress) -> _Progress:
        """Compares the gradient with its rounding error, where steps no longer lead on."""
        now = now if prox is None else judge(now)
        counts = now.counts
        stands = (counts.flat >= _FLAT) | (counts.still >= 2)
        doubtful = stands & (counts.failed == 0) & (now.norm > tol.astype(now.norm.dtype))
        grad = stored_value_and_grad(now.state)[1] if keeps else now.grad
        floor = jax.lax.cond(doubtful, noise, lambda *_: jnp.zeros_like(now.norm), now.params, grad)
        counts = counts._replace(
            evaluations=counts.evaluations + doubtful.astype(np.int32),
            flat=jnp.where(doubtful, 0, counts.flat),
            is_noise=doubtful & (now.norm <= floor),
        )
        return now._replace(numbers=counts.pack())

    def goes_on(now: _Progress) -> jax.Array:
        counts = now.counts
        unfinished = (now.norm > tol.astype(now.norm.dtype)) & (counts.steps < max_steps)
        return unfinished & (counts.still < 2) & (counts.is_noise == 0) & (counts.failed == 0)

    counts = _Counts(evaluations=1, failed=~(jnp.isfinite(value) & (norm < jnp.inf)))
    begin = _Progress(params, state, value, None if keeps else grad, norm, counts.pack())
    # The look is outside the loop over the steps: under vmap, a branch in its body would run in every step.
    end = jax.lax.while_loop(
        goes_on,
        lambda now: look(jax.lax.while_loop(lambda now: goes_on(now) & (now.counts.flat < _FLAT), step, now)),
        begin,
    )
    counts = end.counts
    failed = counts.failed > 0
    converged = ((end.norm <= tol.astype(end.norm.dtype)) | (counts.is_noise > 0)) & ~failed
    stopped = jnp.where(counts.still >= 2, STALLED, MAX_STEPS)
    ending = jnp.where(converged, CONVERGED, jnp.where(failed, NOT_FINITE, stopped)).astype(np.int32)
    result = MinimizeResult(
        end.params, end.value, end.norm, counts.steps, counts.evaluations, converged, ending
    )
    if bounds is not None:
        result = result._replace(start_moved=any_differ(params, outset))
    if prox is None:
        return result
    # The steps were taken between penalized points, of which the last is the solution.
    point = tree.where(failed, end.params, eval_params(end.state, end.params))
    value, grad = jax.value_and_grad(loss)(point)
    value = value + prox.amount(point).astype(value.dtype)
    return result._replace(
        params=point,
        value=value,
        gradient_norm=residual(point, grad),
        evaluations=counts.evaluations + 1,
    )


def _next_numbers(x: jax.Array) -> jax.Array:
    """The array with each number moved by its rounding error, up and down in turns."""
    if not is_inexact(x.dtype):
        return x
    signs = 1 - 2 * (jnp.arange(x.size, dtype=np.int32) % 2).reshape(x.shape)
    return x + x * (signs.astype(x.dtype) * float(jnp.finfo(x.dtype).eps))


def any_differ(new: Params, old: Params) -> jax.Array:
    """Whether any number of two trees differs."""
    pairs = map(_differ, *map(jax.tree.leaves, (new, old)))
    return functools.reduce(jnp.logical_or, pairs, jnp.zeros((), np.bool_))


def _differ(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.any(x != y)


def _searched(state: OptState) -> Any:
    """The number of evaluations by line searches in the last step."""
    return sum(found for _, found in tree.get_all_with_path(state, "num_linesearch_steps"))
