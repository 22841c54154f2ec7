"""Helpers of the line searches: the loss along a line, and points on it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import check_like
from gradflow._calls._context import stage_name
from gradflow._calls._extra_arguments import check_extra_names, loss_value, real_scalar
from gradflow._core._apply import apply_updates
from gradflow._dtypes import promote
from gradflow._errors import describe
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import short_sum
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import at_least_float32
from gradflow._types import Params, Updates
from gradflow.tree._leaves import accumulator
from gradflow.tree._paths import is_none

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array, Any]]


class Point(NamedTuple):
    """A step size, with the loss and its slope along the updates there."""

    rate: jax.Array
    value: jax.Array
    slope: jax.Array


class Line(NamedTuple):
    """The start of a search, and its trials: `evaluate(rate) -> value, slope, gradient`.

    The gradient is None, and the slope 0, for a search that uses values alone.
    """

    start: Point
    grad: Any
    evaluate: Evaluate
    dtype: np.dtype
    is_finite: jax.Array

    def next_rate(self, found: jax.Array, last: jax.Array, kept: jax.Array) -> jax.Array:
        """Where the next search begins: at the step found, else at the last trial.

        From a start that is not finite no trial passes, which says nothing about step sizes: `kept` stays.
        """
        return jnp.where(found > 0, found, jnp.where(self.is_finite, last, kept))


def number_dtype(params: Params) -> np.dtype:
    """The dtype of step sizes and losses in the state: the parameters' widest real one, float32 at least."""
    return at_least_float32(accumulator(jax.tree.leaves(params), real=True))


def chosen_arguments(value_fn: Callable[..., Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The extra arguments that `value_fn` names; all of them if it takes `**kwargs`.

    Raises TypeError for a near-miss of a name: the search would run on another function.
    """
    try:
        parameters = list(inspect.signature(value_fn).parameters.values())
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(extra)
    names = {p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    check_extra_names(extra, frozenset(names))
    return {name: value for name, value in extra.items() if name in names}


def line_along(
    updates: Updates,
    params: Params,
    value: Any,
    grad: Any,
    value_fn: Callable[..., Any],
    extra: Mapping[str, Any],
    kept: Updates | None,
) -> Line:
    """The loss along `params + rate * updates`, with its gradient if the state stores one.

    The search is not differentiated: the derivative of an update treats the step size as a constant.

    Raises ValueError inside `shard_map`, where the slope would be partial, and for a `value_fn`
    that does not return a real scalar; TypeError for one that is not a function.
    """
    refuse_varying("a slope", updates, params)
    if kept is not None:
        check_like("updates", updates, "state", kept)
    if not callable(value_fn):
        raise TypeError(
            f"{stage_name()}: extra argument 'value_fn' must be a function; got {describe(value_fn)}"
        )
    keywords = chosen_arguments(value_fn, extra)
    value = loss_value(value)
    dtype = promote(number_dtype(params), value.dtype if value.dtype.kind == "f" else np.dtype(np.float32))
    updates, params, value, grad = jax.lax.stop_gradient((updates, params, value, grad))

    def loss(params: Params) -> jax.Array:
        return real_scalar("what 'value_fn' returns", value_fn(params, **keywords))

    def evaluate(rate: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        there = apply_updates(params, scale_updates(updates, rate))
        if kept is None:
            return loss(there).astype(dtype), jnp.zeros((), dtype), None
        found, slopes = jax.value_and_grad(loss)(there)
        return found.astype(dtype), slope_along(slopes, updates, dtype), slopes

    slope = slope_along(grad, updates, dtype)
    finite = jnp.isfinite(value) & ~jnp.isnan(slope)
    for u in jax.tree.leaves(updates):
        finite &= jnp.all(jnp.isfinite(u))
    # A slope that overflows would make every comparison with it one with infinity.
    slope = jnp.clip(slope, -np.finfo(dtype).max, np.finfo(dtype).max)
    start = Point(jnp.zeros((), dtype), value.astype(dtype), slope)
    return Line(start, _fill_zeros(grad, params) if kept is not None else None, evaluate, dtype, finite)


def scale_rule(u: jax.Array, s: Any) -> jax.Array:
    """u = rate * u, and 0 for rate 0 even where u is NaN."""
    return jnp.where(s.rate == 0, jnp.zeros((), u.dtype), s.rate * u)


def scale_updates(updates: Updates, rate: jax.Array) -> Updates:
    """`rate * updates`."""
    return leafwise(scale_rule, (updates,), rate=rate)[0]


def slope_along(grad: Any, updates: Updates, dtype: np.dtype) -> jax.Array:
    """The derivative of the loss along the updates; `grad` is as from `jax.grad`, conjugated if complex."""
    grads, others = (jax.tree.leaves(t, is_leaf=is_none) for t in (grad, updates))
    total = jnp.zeros((), dtype)
    for g, u in zip(grads, others, strict=True):
        if g is not None and u is not None:
            kind = promote(promote(g.dtype, u.dtype), dtype)
            total = total + short_sum((g.astype(kind) * u.astype(kind)).real.astype(dtype))
    return total


def _fill_zeros(grad: Any, params: Params) -> Updates:
    """The gradient in the parameters' dtypes, with zeros for missing leaves."""
    return jax.tree.map(
        lambda p, g: None if p is None else jnp.zeros_like(p) if g is None else g.astype(p.dtype),
        params,
        grad,
        is_leaf=is_none,
    )


def first_rate(kept: jax.Array, fallback: jax.Array, dtype: np.dtype) -> jax.Array:
    """The step size that the last search found, or `fallback` if it found none."""
    kept = jax.lax.stop_gradient(kept)
    return jnp.where(kept > 0, kept.astype(dtype), fallback)


def with_old_dtypes(state: Any, old: Any) -> Any:
    """The state in the dtypes of the old one."""
    return jax.tree.map(lambda new, was: new.astype(was.dtype), jax.lax.stop_gradient(state), old)


def print_search(name: str, best: Point, info: Any) -> None:
    """Prints one line per search, also from compiled code."""
    errors = ", ".join(f"{field} {{{field}:.3g}}" for field in info._fields[1:])
    jax.debug.print(
        f"{name}: rate {{rate:.6g}}, loss {{value:.6g}} after {{steps}} evaluations; {errors}",
        rate=best.rate, value=best.value, steps=info[0], **dict(zip(info._fields[1:], info[1:], strict=True)),
    )  # fmt: skip
