"""Minimizing a function in one compiled loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import as_arrays
from gradflow._checked import FLAG, FLOATS, LOSS_FIRST, TUPLE, Number, checked
from gradflow._core._apply import apply_updates
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_complex, is_inexact
from gradflow._errors import describe
from gradflow._rules._state import stack_scalars
from gradflow._tracebacks import one_frame
from gradflow._training._implicit import differentiable, optimality_of
from gradflow._training._problem import Bounds, check_bounds, choose_optimizer, largest, problem_of
from gradflow._training._step import ascent_direction, ends_in_search, extra_arguments_for, scales_the_loss
from gradflow._types import OptState, Params, Updates
from gradflow.optimizers import lbfgs
from gradflow.proximals import Penalty, box_constraint
from gradflow.transforms._value_and_grad import store_value_and_grad, stored_value_and_grad
from gradflow.wrappers import eval_params, loss_scale

# What `MinimizeResult.ending` counts in; the braces are filled with the dtype of the value.
STATUSES = ("converged", "stalled at {} precision", "max_steps", "not finite")
_CONVERGED, _STALLED, _MAX_STEPS, _NOT_FINITE = range(4)

# Steps in a row without a change of the value, after which the gradient is compared with its rounding error.
_FLAT = 5


def text_of(texts: Sequence[str], ending: Any) -> Any:
    """The text at a place; for an array of places a NumPy array of texts."""
    chosen = np.asarray(texts)[np.asarray(ending)]
    return str(chosen) if chosen.ndim == 0 else chosen


def moved_text(start_moved: Any) -> str:
    """What a printed result says of a start outside the bounds."""
    is_moved = start_moved is not None and bool(start_moved)
    return "; the start was outside the bounds" if is_moved else ""


class MinimizeResult(NamedTuple):
    """The result of a minimization; printed, it says how it ended.

    `gradient_norm` is the largest absolute value in the gradient at `params`. `evaluations` counts calls of
    the function, with or without gradient, including those of line searches. `ending` is the place of
    `status` in `STATUSES`, as an array that passes through jit and vmap. `start_moved` is whether the start
    was outside the bounds; None without bounds.
    """

    params: Params
    value: jax.Array
    gradient_norm: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    converged: jax.Array
    ending: jax.Array
    start_moved: jax.Array | None = None

    @property
    def status(self) -> Any:
        """How it ended, as text; after `vmap`, a NumPy array of texts."""
        precision = jnp.result_type(self.value)
        return text_of([text.format(precision) for text in STATUSES], self.ending)

    def __str__(self) -> str:
        if np.ndim(self.ending) or isinstance(self.ending, jax.core.Tracer):
            return repr(self)
        return (
            f"{self.status} after {self.steps} steps and {self.evaluations} evaluations: "
            f"value {self.value:.6g}, gradient norm {self.gradient_norm:.3g}{moved_text(self.start_moved)}"
        )


@one_frame
@checked(
    loss_fn=LOSS_FIRST,
    max_steps=Number(0, 2**31 - 1, whole=True),
    tol=Number(0),
    args=TUPLE,
    implicit=FLAG,
    params=FLOATS,
)
def minimize(
    loss_fn: Callable[..., Any],
    params: Params,
    tx: GradientTransformation | None = None,
    max_steps: int = 1000,
    tol: Any = 1e-5,
    *,
    args: tuple[Any, ...] = (),
    prox: Penalty | None = None,
    bounds: tuple[Any, Any] | None = None,
    implicit: bool = False,
) -> MinimizeResult:
    """Minimizes `loss_fn(params, *args)` from `params` on, with a penalty or bounds, in one compiled loop.

    Args:
      loss_fn: a real scalar function. Calls with the same function share a compilation.
      tx: the optimizer, by default `lbfgs()`, with `prox` `fista(penalty=prox)`, with `bounds`
        `lbfgsb(*bounds)`. Another becomes `proximal(tx, prox)` or `projected(tx, box_constraint(*bounds))`.
      max_steps: the most steps, >= 0.
      tol: >= 0; converged when no entry of the gradient exceeds it in absolute value.
      args: further arguments of the function, arrays or trees of them.
      prox: a penalty or a set of `gradflow.proximals`, such as `l1_penalty(0.1)` or `box_constraint(0.0)`.
        Then the value has the penalty too, and in the place of the gradient is `p - prox(p - gradient)`,
        which is zero at the minimum.
      bounds: a pair (lower, upper), each a number or array for every leaf, or a tree like `params` of them;
        None or infinite for no bound. A start outside is moved inside, as `result.start_moved` says. In the
        place of the gradient is `p - clip(p - gradient)`. NaN, and a lower bound above its upper one, raise
        ValueError with the path; traced ones end "not finite".
      implicit: whether `result.params` and `result.value` have derivatives with respect to `args`, the
        numbers of `prox` and `bounds`, and what `loss_fn` closes over, by the implicit function theorem:
        in forward and reverse mode, at a cost that grows with the cube of the number of parameters. They are
        right where the solver converged. NaN with a warning if the optimality conditions are singular.

    Also converged: when the value no longer changes, and the gradient is not above what rounding the
    parameters changes in it. Stalled: when two steps in a row do not change the parameters otherwise. Where
    value or gradient are not finite, the result is the last point where they were. `result.status` has it as
    text: "converged", "stalled at float32 precision", "max_steps" or "not finite". The next step reuses the
    last evaluation of a line search. Works under jit and vmap. Without `implicit`, derivatives are forward
    mode only.

    >>> import gradflow, jax.numpy as jnp
    >>> gradflow.minimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(3)).status
    'converged'
    """
    if tx is not None:
        tx = as_transformation(tx, "minimize", "argument 'tx'")
    if prox is not None or bounds is not None:
        tx = choose_optimizer(tx, prox, bounds)
        bounds = None if bounds is None else check_bounds(bounds, params)
    elif tx is None:
        tx = _default()
    # NumPy scalars enter a compiled function without an eager operation.
    steps = max_steps if isinstance(max_steps, jax.Array) else np.int32(max_steps)
    given: Any = (
        as_arrays(params),
        args,
        prox,
        bounds,
        steps,
        tol if isinstance(tol, jax.Array) else np.asarray(tol, float),
    )
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    if implicit:
        return (_solve_implicitly if traced else _compiled_implicitly)(loss_fn, tx, *given)
    return (solve if traced else _compiled)(loss_fn, tx, *given)


@functools.cache
def _default() -> GradientTransformation:
    return lbfgs()


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
    stopped = jnp.where(counts.still >= 2, _STALLED, _MAX_STEPS)
    ending = jnp.where(converged, _CONVERGED, jnp.where(failed, _NOT_FINITE, stopped)).astype(np.int32)
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


_compiled = jax.jit(solve, static_argnums=(0, 1))


def _solve_implicitly(
    loss_fn: Callable[..., Any],
    tx: GradientTransformation | None,
    params: Params,
    args: tuple[Any, ...],
    prox: Penalty | None,
    bounds: Bounds | None,
    max_steps: jax.Array,
    tol: jax.Array,
) -> MinimizeResult:
    """The result of `solve`, whose parameters and value have derivatives."""

    loss = loss_of("minimize", loss_fn, args)

    def find() -> tuple[Params, MinimizeResult]:
        result = solve(loss_fn, tx, params, args, prox, bounds, max_steps, tol)
        return result.params, result._replace(params=None)

    there = prox if bounds is None else box_constraint(*bounds)
    solution, rest = differentiable(optimality_of(loss, there), params, find)
    value = loss(solution)
    if prox is not None:
        value = value + prox.amount(solution).astype(value.dtype)
    result: MinimizeResult = rest._replace(params=solution, value=value, evaluations=rest.evaluations + 1)
    return result


_compiled_implicitly = jax.jit(_solve_implicitly, static_argnums=(0, 1))


def loss_of(owner: str, loss_fn: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[Params], jax.Array]:
    """The loss as a function of the parameters alone, which is checked to return one number."""

    def loss(params: Params) -> jax.Array:
        value = jnp.asarray(loss_fn(params, *args))
        if value.ndim:
            raise TypeError(
                f"{owner}: argument 'loss_fn' must return one number; got {describe(value)}. "
                "Return its sum or mean."
            )
        if not is_inexact(value.dtype) or is_complex(value.dtype):
            raise TypeError(
                f"{owner}: argument 'loss_fn' must return a real floating-point number; got {describe(value)}"
            )
        return value

    return loss


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
