"""Minimizing a function in one compiled loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradflow._calls._checks import as_arrays
from gradflow._checked import FLAG, FLOATS, LOSS_FIRST, TUPLE, Number, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._tracebacks import one_frame
from gradflow._training._implicit import differentiable, optimality_of
from gradflow._training._limits import count_limit, tolerance
from gradflow._training._problem import Bounds, check_bounds, choose_optimizer, loss_of
from gradflow._training._result import MinimizeResult
from gradflow._training._solve import solve
from gradflow._types import Params
from gradflow.optimizers import lbfgs
from gradflow.proximals import Penalty, box_constraint


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
    given: Any = (as_arrays(params), args, prox, bounds, count_limit(max_steps), tolerance(tol))
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    if implicit:
        return (_solve_implicitly if traced else _compiled_implicitly)(loss_fn, tx, *given)
    return (solve if traced else _compiled)(loss_fn, tx, *given)


@functools.cache
def _default() -> GradientTransformation:
    return lbfgs()


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
