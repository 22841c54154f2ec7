"""What `minimize` solves: loss, optimizer, the set of the parameters, and how far a point is off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._core._transformation import GradientTransformation, stage_of, stages_of
from gradflow._dtypes import is_complex, is_inexact
from gradflow._errors import describe
from gradflow._training._step import ascent_direction
from gradflow._types import Params, Updates
from gradflow.optimizers import fista, lbfgs, lbfgsb
from gradflow.proximals import Penalty, box_constraint
from gradflow.tree._bounds import Owner, read_bounds
from gradflow.wrappers import projected, proximal

Bounds = tuple[Any, Any]


class Problem(NamedTuple):
    """The optimizer, and the functions that depend on the penalty and the bounds."""

    tx: GradientTransformation
    begin: Callable[[Params], Params]  # the nearest point between the bounds; NaN where there is none
    into: Callable[[Params], Params]  # the nearest point between the bounds
    residual: Callable[[Params, Updates], jax.Array]  # 0 at a solution


def choose_optimizer(
    tx: GradientTransformation | None, prox: Any, bounds: Any, owner: str = "minimize"
) -> GradientTransformation | None:
    """The optimizer that was passed, checked against the penalty and the bounds; None for the default."""
    if prox is not None and bounds is not None:
        raise ValueError(
            "minimize: only one of the arguments 'prox' and 'bounds' can be given; got both. With bounds and "
            "a penalty, use a penalty that has them, such as nonnegative_l1_penalty"
        )
    if prox is not None and not isinstance(prox, Penalty):
        raise TypeError(
            f"minimize: argument 'prox' must be a penalty, as l1_penalty(0.1), or None; got {describe(prox)}"
        )
    if tx is None or (prox is None and bounds is None):
        return tx
    own = [stage for stage in stages_of(tx) if stage.constrained_by]
    whole = stage_of(tx)
    fits = {"fista": prox, "lbfgsb": bounds}
    for stage in own:
        expression = stage.expression
        is_free = all(expression.arguments[name] is None for name in stage.constrained_by)
        is_whole = whole is not None and expression is whole.expression
        if not (is_free and is_whole and fits.get(expression.name) is not None):
            given = "prox" if bounds is None else "bounds"
            raise ValueError(
                f"{owner}: argument 'tx' must have no penalty or set of its own with '{given}'; got "
                f"{expression.name}. Pass {given} alone, or give {expression.name} all of it"
            )
    return tx


def check_bounds(bounds: Any, params: Params, owner: str = "minimize") -> Bounds:
    """The two bounds, which fit the parameters; errors name the path.

    Concrete jax arrays are read, unlike those of a transformation: a solve waits for the device anyway.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(
            f"{owner}: argument 'bounds' must be a pair (lower, upper) of numbers or trees like 'params', "
            f"each of which may be None; got {describe(bounds)}"
        )
    read_bounds(Owner(owner), params, *jax.tree.map(_read, tuple(bounds)))
    return tuple(bounds)


def _read(bound: Any) -> Any:
    if not isinstance(bound, jax.Array) or isinstance(bound, jax.core.Tracer):
        return bound
    # Keys have no numbers, and another process may hold a part of the array.
    is_read = bound.is_fully_addressable and not jnp.issubdtype(bound.dtype, jax.dtypes.extended)
    return np.asarray(bound) if is_read else bound


def problem_of(
    tx: GradientTransformation | None, params: Params, prox: Penalty | None, bounds: Bounds | None
) -> Problem:
    """The optimizer and the functions for a penalty, for bounds, or for neither."""
    if bounds is not None:
        return _between(tx, params, bounds)
    if prox is None:
        return Problem(lbfgs() if tx is None else tx, _unchanged, _unchanged, lambda _, grad: largest(grad))

    def residual(params: Params, grad: Updates) -> jax.Array:
        """What a penalty leaves of a step along the gradient."""
        there = prox(tree.sub(params, tree.cast_like(ascent_direction(grad), params)))
        return largest(tree.sub(params, there))

    tx = fista() if tx is None else tx
    tx = _rebuilt(tx, penalty=prox) if _name(tx) == "fista" else proximal(tx, prox)
    return Problem(tx, _unchanged, _unchanged, residual)


def _between(tx: GradientTransformation | None, params: Params, bounds: Bounds) -> Problem:
    box = box_constraint(*bounds)
    pairs = read_bounds(Owner("minimize"), params, *bounds)

    def begin(params: Params) -> Params:
        structure: Any
        leaves, structure = jax.tree.flatten(box(params))
        return structure.unflatten(_nan_if_empty(p, *pair) for p, pair in zip(leaves, pairs, strict=True))

    def residual(params: Params, grad: Updates) -> jax.Array:
        """The largest entry of `p - clip(p - g)`, without the rounding of the difference."""
        rows = zip(jax.tree.leaves(params), jax.tree.leaves(grad), pairs, strict=True)
        return largest([_inward(p, g, *pair) for p, g, pair in rows])

    tx = lbfgsb() if tx is None else tx
    lower, upper = bounds
    tx = _rebuilt(tx, lower=lower, upper=upper) if _name(tx) == "lbfgsb" else projected(tx, box)
    return Problem(tx, begin, box, residual)


def _nan_if_empty(p: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """The number, and NaN where the lower bound is above the upper one, which only a traced one can be."""
    return p if lower is None or upper is None else jnp.where(jnp.asarray(lower) > upper, jnp.nan, p)


def _inward(p: jax.Array, g: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """The gradient, no longer than the way to the bound that its descent ends at."""
    g = g if upper is None else jnp.maximum(g, p - jnp.asarray(upper, p.dtype))
    return g if lower is None else jnp.minimum(g, p - jnp.asarray(lower, p.dtype))


def _name(tx: GradientTransformation) -> str:
    stage = stage_of(tx)
    return "" if stage is None else stage.expression.name


def _rebuilt(tx: GradientTransformation, **arguments: Any) -> GradientTransformation:
    stage = stage_of(tx)
    assert stage is not None
    return stage.expression.rebuild(arguments)


def _unchanged(params: Params) -> Params:
    return params


def largest(grad: Updates) -> jax.Array:
    """The largest absolute value in a tree."""
    return tree.max(jax.tree.map(jnp.abs, grad)) if jax.tree.leaves(grad) else jnp.zeros(())


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
