"""L-BFGS-B: L-BFGS for parameters between bounds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._dtypes import in_dtype_of
from gradflow._errors import describe
from gradflow._expressions._arguments import Iterations, Size
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Other, Weights
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._bounded_model import Pairs, append_pair, bounded_minimum, model_of, time_to_bound
from gradflow.transforms._linesearch_common import line_along, number_dtype, with_old_dtypes
from gradflow.transforms._zoom_linesearch import (
    Criteria,
    Options,
    ScaleByZoomLinesearchState,
    ZoomLinesearchInfo,
    zoom,
)
from gradflow.tree._bounds import Owner, check_bound, read_bounds
from gradflow.tree._paths import is_none
from gradflow.wrappers._flatten import piece_of, vector_of


class LBFGSBState(NamedTuple):
    """Steps taken, the last point and gradient, their differences and products as vectors, and the search."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    params: Weights
    updates: Other
    diff_params_memory: Other
    diff_updates_memory: Other
    products: Other
    search: ScaleByZoomLinesearchState


# Of the search: decrease, slope, slack, and the relative change of the loss that counts as rounding.
_CRITERIA = (1e-4, 0.9, 0.0, 1e-6)


class _Box(NamedTuple):
    lower: jax.Array
    upper: jax.Array

    def into(self, x: jax.Array) -> jax.Array:
        return jnp.clip(x, self.lower, self.upper)


@jax.jit
def _direction(x: jax.Array, g: jax.Array, box: _Box, state: LBFGSBState) -> tuple[jax.Array, Pairs]:
    """The way from `x` to the minimum of the model, and the pairs with the last step's."""
    begun = state.count > 0
    old = Pairs(state.diff_params_memory, state.diff_updates_memory, *state.products)
    step = jnp.where(begun, x - state.params, 0)
    pairs = append_pair(old, step, jnp.where(begun, g - state.updates, 0))
    # Without a pair the way has length 1 at most.
    first = jnp.sqrt(jnp.maximum(jnp.sum(g * g), 1))
    way = bounded_minimum(x, g, *box, model_of(pairs, first)) - x
    slope = jnp.sum(way * g)
    descends = (slope < 0) & (slope > -jnp.inf)
    way = jnp.where(descends, way, box.into(x - g / first) - x)
    return way, Pairs(*(jnp.where(descends, part, 0) for part in pairs))


def _longest(x: jax.Array, way: jax.Array, box: _Box) -> jax.Array:
    """The rate at which the first coordinate reaches its bound; at least 1, where all are between them."""
    return jnp.maximum(jnp.min(time_to_bound(x, way, *box), initial=jnp.inf), 1)


@transformation(
    reports=("learning_rate", "evaluations"), leaves="real", last=True, constrained_by=("lower", "upper")
)
def lbfgsb(
    lower: Any = None, upper: Any = None, memory_size: Iterations = 10, max_linesearch_steps: Size = 20
) -> Pair:
    """L-BFGS-B: minimizes a smooth loss over parameters between bounds.

        B = the matrix of the last pairs (p - p_last, g - g_last), as in L-BFGS
        c = the first minimum of <g, q - p> + (q - p)' B (q - p) / 2 along q = clip(p - t * g)
        q = its minimum over the coordinates that are not at a bound in c, cut off at the bounds
        u = rate * (q - p)

    Args:
      lower, upper: a number or array that broadcasts to each leaf, or a tree like the parameters of them;
        None, there or alone, for no bound. Infinite bounds are none.
      memory_size: stored pairs, >= 1; each takes twice the memory of the parameters.
      max_linesearch_steps: the most evaluations of the loss and its gradient per step, >= 1.

    The rate is that of a search for the strong Wolfe conditions that stays between the bounds. Parameters
    outside are moved to the nearest point inside by the first step, without a search. Needs `params` and the
    extra arguments `value`, `grad` and `value_fn`; `minimize(f, params, bounds=...)` has them. Reports
    `learning_rate` and `evaluations`. Raises ValueError for a lower bound above the upper one and for NaN,
    unless they are jax arrays; TypeError for complex parameters.
    Sources: Byrd, Lu, Nocedal & Zhu 1995; Morales & Nocedal 2011 for the cut-off.
    """
    for name, bound in (("lower", lower), ("upper", upper)):
        for leaf in jax.tree.leaves(bound):
            check_bound("lbfgsb", name, leaf)

    def init(params: Params) -> OptState:
        read_bounds(Owner("lbfgsb"), params, lower, upper)
        dtype = number_dtype(params)
        size = sum(p.size for p in jax.tree.leaves(params))
        zero = zero_scalar(params, dtype)

        def zeros(*shape: int) -> jax.Array:
            return jnp.broadcast_to(zero, shape) + jnp.zeros((), dtype)

        info = ZoomLinesearchInfo(
            zero_scalar(params), zero_scalar(params, dtype, np.inf), zero_scalar(params, dtype, np.inf)
        )
        return LBFGSBState(
            count=zero_scalar(params),
            params=zeros(size),
            updates=zeros(size),
            diff_params_memory=zeros(memory_size, size),
            diff_updates_memory=zeros(memory_size, size),
            products=zeros(2, memory_size, memory_size),
            search=ScaleByZoomLinesearchState(
                zero_scalar(params, dtype, 1),
                zero_scalar(params, dtype, np.inf),
                tree.zeros_like(params),
                info,
            ),
        )

    def update(
        updates: Updates,
        state: LBFGSBState,
        params: Params,
        *,
        value: Any,
        grad: Any,
        value_fn: Callable[..., Any],
        **extra: Any,
    ) -> tuple[Updates, LBFGSBState]:
        refuse_varying("the inner products of L-BFGS-B", updates, params)
        check_like("updates", updates, "state", state.search.grad)
        if not callable(value_fn):
            raise TypeError(
                f"{stage_name()}: extra argument 'value_fn' must be a function; got {describe(value_fn)}"
            )
        if not jax.tree.leaves(params):
            return updates, state
        layout = _Layout(params, state.params.dtype)
        pairs = read_bounds(Owner(stage_name()), params, lower, upper)
        given, g = layout.vector(params), layout.vector(updates)
        box = layout.box(pairs, given, updates)
        x = box.into(given)
        # A parameter may lie outside by the rounding of its last step; its gradient then serves.
        least = 8 * float(np.finfo(x.dtype).eps) * jnp.maximum(jnp.abs(x), jnp.abs(given))
        outside = jnp.any(jnp.abs(x - given) > least)
        way, kept = _direction(x, g, box, state)
        loss = _between(value_fn, layout, box)
        line = line_along(layout.tree(way), layout.tree(x), value, grad, loss, extra, state.search.grad)
        one = jnp.ones((), line.dtype)
        test = Criteria(*(one * number for number in _CRITERIA))
        # The derivative of an update treats the rate as a constant.
        limit, outside = jax.lax.stop_gradient((_longest(x, way, box).astype(line.dtype), outside))
        options = Options(2 * one, 1e-5 * one, limit, max_linesearch_steps)
        found = zoom(line, test, jnp.where(outside, jnp.nan, one), options)
        best = found.unpack()[4]
        report("learning_rate", best.rate)
        report("evaluations", found.steps)
        u = layout.tree(box.into(x + best.rate.astype(x.dtype) * way) - given)
        u = jax.tree.map(lambda g, u: None if g is None else in_dtype_of(u, g), updates, u, is_leaf=is_none)
        errors = test.decrease_error(line.start, best), test.curvature_error(line.start, best)
        # At a point that was moved inside, value and gradient are not known.
        there = jnp.where(outside, jnp.inf, best.value)
        info = ZoomLinesearchInfo(found.steps, *errors)
        search = ScaleByZoomLinesearchState(best.rate, there, found.grad, info)
        products = jnp.stack([kept.step_by_change, kept.step_by_step])
        fields = with_old_dtypes((x, g, kept.steps, kept.changes, products, search), tuple(state[1:]))
        return u, LBFGSBState(increment(state.count), *fields)

    return init, update


class _Layout:
    """Trees like the parameters as vectors of one dtype, and back."""

    def __init__(self, params: Params, dtype: np.dtype) -> None:
        structure: Any
        self.places, structure = jax.tree.flatten(params, is_leaf=is_none)
        self.structure = structure
        self.likes = [p for p in self.places if p is not None]
        self.dtype = dtype

    def vector(self, values: Any) -> jax.Array:
        """The leaves in a row, zeros for a missing one."""
        rows = zip(self.places, jax.tree.leaves(values, is_leaf=is_none), strict=True)
        return self._joined([jnp.zeros_like(p) if x is None else x for p, x in rows if p is not None])

    def tree(self, vector: jax.Array) -> Params:
        """The pieces of a vector, each like its parameter."""
        pieces = iter(jnp.split(vector, np.cumsum([p.size for p in self.likes])[:-1]))
        return self.structure.unflatten(None if p is None else piece_of(next(pieces), p) for p in self.places)

    def box(self, pairs: list[tuple[Any, Any]], given: jax.Array, updates: Updates) -> _Box:
        """The bounds as vectors. A parameter without a gradient cannot leave its place."""
        missing = [g is None for g in jax.tree.leaves(updates, is_leaf=is_none)]
        fixed = [out for out, p in zip(missing, self.places, strict=True) if p is not None]

        def side(place: int, unbounded: float) -> jax.Array:
            bounds = [unbounded if pair[place] is None else pair[place] for pair in pairs]
            rows = zip(bounds, self.likes, strict=True)
            return self._joined([jnp.broadcast_to(jnp.asarray(b, self.dtype), p.shape) for b, p in rows])

        lower, upper = side(0, -np.inf), side(1, np.inf)
        if not any(fixed):
            return _Box(lower, upper)
        stays = np.repeat(fixed, [p.size for p in self.likes])
        return _Box(jnp.where(stays, given, lower), jnp.where(stays, given, upper))

    def _joined(self, leaves: list[jax.Array]) -> jax.Array:
        return vector_of([x.astype(self.dtype) for x in leaves])


def _between(value_fn: Callable[..., Any], layout: _Layout, box: _Box) -> Callable[..., Any]:
    """The loss at the nearest point between the bounds, with the derivative of the loss there.

    A trial may be outside by its rounding alone, where a loss such as a root may not be defined.
    """

    @functools.wraps(value_fn)
    def inside(params: Params, **keywords: Any) -> Any:
        fixed = jax.lax.stop_gradient(params)
        nearest = layout.tree(box.into(layout.vector(fixed)))
        return value_fn(jax.tree.map(lambda n, p, f: n + (p - f), nearest, params, fixed), **keywords)

    return inside
