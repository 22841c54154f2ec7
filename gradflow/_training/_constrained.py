"""Minimizing a function under constraints, by the augmented Lagrangian method."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import as_arrays
from gradflow._checked import FLOATS, FUNCTION, LOSS_FIRST, TUPLE, Number, checked, is_number_or_array
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow._rules._state import at_least_float32
from gradflow._tracebacks import one_frame
from gradflow._training._limits import count_limit, tolerance
from gradflow._training._problem import Bounds, check_bounds, choose_optimizer, loss_of
from gradflow._training._result import STATUSES, MinimizeResult, moved_text, status_of
from gradflow._training._solve import any_differ, solve
from gradflow._types import Params
from gradflow.proximals import box_constraint
from gradflow.tree._nan import nan_of

# What `ConstrainedResult.ending` counts in.
# The braces are filled with the dtype of the value.
CONSTRAINED_STATUSES = (
    "converged",
    "infeasible nearby",
    "max_rounds",
    "not finite",
    "stalled at {} precision",
)
_SOLVE_FAILED, _SOLVE_STALLED = map(STATUSES.index, ("not finite", "stalled at {} precision"))
_CONVERGED, _INFEASIBLE, _MAX_ROUNDS, _NOT_FINITE, _STALLED = range(5)

_SOLVED = {"equality": "0", "inequality": "<= 0"}

# The penalty grows by this where a round did not make the violation a quarter of what it was.
_GROWTH, _PROGRESS = 10.0, 0.25
# Rounds in a row without that progress, after which the violation is a minimum of its own.
_FRUITLESS = 8
# Feasible rounds in a row that moved the value by its rounding at most, or ended stalled.
_STALLS = 2


class ConstrainedResult(NamedTuple):
    """The result of `minimize_constrained`; printed, it says how it ended.

    At a solution the gradient of `loss + <equality_multipliers, equality> + <inequality_multipliers,
    inequality>` is zero, up to what bounds hold back; `gradient_norm` is its largest absolute value.
    `violation` is the largest of `|equality|`, `inequality` where it is positive, and, where a multiplier is
    positive, of `|inequality|` as far as the multiplier would not undo it. `evaluations` counts calls of the
    loss, each with the constraints. `ending` is the place of `status` in `CONSTRAINED_STATUSES`.
    """

    params: Params
    value: jax.Array
    gradient_norm: jax.Array
    violation: jax.Array
    equality_multipliers: Any
    inequality_multipliers: Any
    penalty: jax.Array
    rounds: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    converged: jax.Array
    ending: jax.Array
    start_moved: jax.Array | None = None

    @property
    def status(self) -> Any:
        """How it ended, as text; after `vmap`, a NumPy array of texts."""
        return status_of(CONSTRAINED_STATUSES, self.value, self.ending)

    def __str__(self) -> str:
        if np.ndim(self.ending) or isinstance(self.ending, jax.core.Tracer):
            return repr(self)
        return (
            f"{self.status} after {self.rounds} rounds, {self.steps} steps and {self.evaluations} "
            f"evaluations: value {self.value:.6g}, violation {self.violation:.3g}, "
            f"gradient norm {self.gradient_norm:.3g}{moved_text(self.start_moved)}"
        )


@one_frame
@checked(
    loss_fn=LOSS_FIRST,
    equality=FUNCTION | None,
    inequality=FUNCTION | None,
    max_steps=Number(0, 2**31 - 1, whole=True),
    tol=Number(0),
    args=TUPLE,
    max_rounds=Number(1, 2**31 - 1, whole=True),
    params=FLOATS,
)
def minimize_constrained(
    loss_fn: Callable[..., Any],
    params: Params,
    tx: GradientTransformation | None = None,
    max_steps: int = 1000,
    tol: Any = 1e-5,
    *,
    equality: Callable[..., Any] | None = None,
    inequality: Callable[..., Any] | None = None,
    bounds: tuple[Any, Any] | None = None,
    args: tuple[Any, ...] = (),
    max_rounds: int = 50,
) -> ConstrainedResult:
    """Minimizes `loss_fn(params, *args)` where `equality = 0` and `inequality <= 0`, in one compiled program.

        L(p) = loss + <y, h> + penalty / 2 * |h|^2 + |max(z + penalty * g, 0)|^2 / (2 * penalty)
        y = y + penalty * h,  z = max(z + penalty * g, 0)

    Each round minimizes `L` from the last point on, with `h` for `equality` and `g` for `inequality`.

    Args:
      loss_fn: a real scalar function.
      tx: the optimizer of a round, by default `lbfgs()`, with `bounds` `lbfgsb(*bounds)`.
      max_steps: the most steps of a round, >= 0.
      tol: >= 0; converged when `gradient_norm` and `violation` of the result are not above it.
      equality, inequality: functions of `(params, *args)` that return an array or a tree of them.
      bounds: as in `minimize`; every point that is evaluated lies inside.
      args: further arguments of all functions.
      max_rounds: the most rounds, >= 1.

    The penalty grows tenfold where a round leaves more than a quarter of the violation. The multipliers in
    the result have the shapes of the constraints: they are the derivatives of the minimum with respect to
    what stands on the right of `= 0` and `<= 0`, with the sign turned. `result.status` is "converged",
    "infeasible nearby" (the violation no longer falls), "stalled at float32 precision" (feasible, and steps
    no longer change the parameters), "max_rounds" or "not finite". Without convexity, the solution is a
    local one. Works under jit and vmap.
    Source: Birgin & Martinez 2014, "Practical Augmented Lagrangian Methods for Constrained Optimization".

    >>> import gradflow, jax.numpy as jnp
    >>> r = gradflow.minimize_constrained(
    ...     lambda x: jnp.sum(x**2), jnp.zeros(2), equality=lambda x: jnp.sum(x) - 1.0
    ... )
    >>> r.status, r.params.round(3).tolist()
    ('converged', [0.5, 0.5])
    """
    tx = None if tx is None else as_transformation(tx, "minimize_constrained", "argument 'tx'")
    if bounds is not None:
        tx = choose_optimizer(tx, None, bounds, "minimize_constrained")
        bounds = check_bounds(bounds, params, "minimize_constrained")
    given: Any = (
        as_arrays(params),
        args,
        bounds,
        count_limit(max_steps),
        tolerance(tol),
        count_limit(max_rounds),
    )
    functions = (loss_fn, equality, inequality, tx)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    return (_rounds if traced else _compiled)(*functions, *given)


class _Round(NamedTuple):
    """Where the rounds are: the last solve, multipliers, penalty, the violation, and counters."""

    last: MinimizeResult
    y: Any
    z: Any
    penalty: jax.Array
    violation: jax.Array
    tolerance: jax.Array
    rounds: Any
    steps: Any
    evaluations: Any
    fruitless: Any
    stalls: Any


def _rounds(
    loss_fn: Callable[..., Any],
    equality: Callable[..., Any] | None,
    inequality: Callable[..., Any] | None,
    tx: GradientTransformation | None,
    params: Params,
    args: tuple[Any, ...],
    bounds: Bounds | None,
    max_steps: jax.Array,
    tol: jax.Array,
    max_rounds: jax.Array,
) -> ConstrainedResult:
    loss = loss_of("minimize_constrained", loss_fn, args)
    kind = jax.eval_shape(loss, params).dtype
    wide, epsilon = at_least_float32(kind), float(jnp.finfo(kind).eps)

    def constraints(params: Params) -> tuple[Any, Any]:
        h = _values("equality", equality, params, args, wide)
        return h, _values("inequality", inequality, params, args, wide)

    def lagrangian(params: Params, y: Any, z: Any, penalty: jax.Array) -> jax.Array:
        value = loss(params)
        h, g = constraints(params)
        linear = _sum(jax.tree.map(jnp.multiply, y, h), wide)
        pushed = jax.tree.map(lambda z, g: jnp.maximum(z + penalty * g, 0), z, g)
        terms = linear + penalty / 2 * _squares(h, wide) + _squares(pushed, wide) / (2 * penalty)
        return value + terms.astype(value.dtype)

    def begin() -> _Round:
        start = params if bounds is None else box_constraint(*bounds)(params)
        h, g = constraints(start)
        off = _squares((h, jax.tree.map(lambda g: jnp.maximum(g, 0), g)), wide)
        size = jnp.abs(loss(start)).astype(wide)
        # Birgin and Martinez' choice: penalty and loss weigh alike at the start.
        penalty = jnp.clip(10 * jnp.maximum(size, 1) / jnp.maximum(off / 2, 1), 1e-6, 1e8)
        y, z = jax.tree.map(jnp.zeros_like, h), jax.tree.map(jnp.zeros_like, g)
        weights = (y, z, penalty)
        like = jax.eval_shape(lambda: solve(lagrangian, tx, start, weights, None, bounds, max_steps, tol))
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        none = jnp.zeros((), np.int32)
        far, first = jnp.asarray(jnp.inf, wide), jnp.sqrt(tol).astype(wide)
        return _Round(nothing._replace(params=start), y, z, penalty, far, first, *5 * (none,))

    def round_of(now: _Round) -> _Round:
        limit = tol.astype(wide)
        weights = (now.y, now.z, now.penalty)
        goal = jnp.maximum(now.tolerance, limit)
        last = solve(lagrangian, tx, now.last.params, weights, None, bounds, max_steps, goal)
        h, g = constraints(last.params)
        y = jax.tree.map(lambda y, h: y + now.penalty * h, now.y, h)
        z = jax.tree.map(lambda z, g: jnp.maximum(z + now.penalty * g, 0), now.z, g)
        # A slack constraint counts as far as its multiplier was not yet gone.
        active = jax.tree.map(lambda g, z: jnp.maximum(g, -z / now.penalty), g, now.z)
        violation = _largest((h, active), wide)
        helped = (violation <= _PROGRESS * now.violation) | (violation <= limit)
        flat = jnp.abs(last.value - now.last.value) <= 4 * epsilon * jnp.abs(last.value)
        stalled = ((last.ending == _SOLVE_STALLED) | flat) & (goal <= limit) & (violation <= limit)
        falls = (violation <= 0.9 * now.violation) | (violation <= limit)
        return _Round(
            last=last,
            y=y,
            z=z,
            penalty=jnp.where(helped, now.penalty, _GROWTH * now.penalty),
            violation=violation,
            tolerance=now.tolerance / 10,
            rounds=now.rounds + 1,
            steps=now.steps + last.steps,
            evaluations=now.evaluations + last.evaluations,
            fruitless=jnp.where(falls, 0, now.fruitless + 1),
            stalls=jnp.where(stalled, now.stalls + 1, 0),
        )

    def is_solved(now: _Round) -> jax.Array:
        # A gradient that is rounding error counts as zero, as in `minimize`.
        limit = tol.astype(wide)
        is_noise = now.last.converged & (now.tolerance <= limit / 10)
        stationary = (now.last.gradient_norm.astype(wide) <= limit) | is_noise
        return stationary & (now.violation <= limit) & (now.rounds > 0)

    def goes_on(now: _Round) -> jax.Array:
        failed = (now.last.ending == _SOLVE_FAILED) & (now.rounds > 0)
        useful = (now.fruitless < _FRUITLESS) & (now.stalls < _STALLS)
        return ~is_solved(now) & ~failed & (now.rounds < max_rounds) & useful

    end = jax.lax.while_loop(goes_on, round_of, begin())
    converged = is_solved(end)
    unfinished = jnp.where(end.stalls >= _STALLS, _STALLED, _MAX_ROUNDS)
    stopped = jnp.where(end.fruitless >= _FRUITLESS, _INFEASIBLE, unfinished)
    failed = (end.last.ending == _SOLVE_FAILED) & (end.rounds > 0)
    ending = jnp.where(converged, _CONVERGED, jnp.where(failed, _NOT_FINITE, stopped)).astype(np.int32)
    moved = None if bounds is None else any_differ(box_constraint(*bounds)(params), params)
    return ConstrainedResult(
        params=end.last.params,
        value=loss(end.last.params),
        gradient_norm=end.last.gradient_norm,
        violation=end.violation,
        equality_multipliers=None if equality is None else end.y,
        inequality_multipliers=None if inequality is None else end.z,
        penalty=end.penalty,
        rounds=end.rounds,
        steps=end.steps,
        evaluations=end.evaluations + 2,
        converged=converged,
        ending=ending,
        start_moved=moved,
    )


def _values(
    argument: str, function: Callable[..., Any] | None, params: Params, args: tuple[Any, ...], wide: Any
) -> Any:
    """What a constraint function returns, as arrays of the precision of the loss."""
    if function is None:
        return None

    def read(value: Any) -> jax.Array:
        dtype = jnp.result_type(value) if is_number_or_array(value) else None
        if dtype is None or is_complex(dtype) or dtype == np.bool_:
            hint = (
                ""
                if dtype != np.bool_
                else f". Return a difference that is {_SOLVED[argument]} at a solution"
            )
            raise TypeError(
                f"minimize_constrained: argument '{argument}' must return real arrays; got "
                f"{describe(value)}{hint}"
            )
        return jnp.asarray(value, wide)

    return jax.tree.map(read, function(params, *args))


def _sum(terms: Any, wide: Any) -> jax.Array:
    return functools.reduce(jnp.add, map(jnp.sum, jax.tree.leaves(terms)), jnp.zeros((), wide))


def _squares(terms: Any, wide: Any) -> jax.Array:
    return _sum(jax.tree.map(jnp.square, terms), wide)


def _largest(terms: Any, wide: Any) -> jax.Array:
    sizes = [jnp.max(jnp.abs(x), initial=0) + nan_of(jnp.abs(x)) for x in jax.tree.leaves(terms)]
    return functools.reduce(jnp.maximum, sizes, jnp.zeros((), wide))


_compiled = jax.jit(_rounds, static_argnums=(0, 1, 2, 3))
