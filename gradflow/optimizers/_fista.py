"""FISTA: accelerated gradient descent on a smooth loss plus a penalty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._context import stage_name
from gradflow._calls._extra_arguments import loss_value, real_scalar
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._dtypes import in_dtype_of
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Positive, Rate, Size
from gradflow._rules._leafwise import as_scalar, leafwise
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.proximals._penalty import OPERATOR, Penalty, check_operator
from gradflow.transforms._linesearch_common import chosen_arguments, number_dtype
from gradflow.tree._paths import is_none
from gradflow.wrappers._eval_params import averages


class FistaInfo(NamedTuple):
    """Evaluations of the last search."""

    num_linesearch_steps: jax.Array


class FistaState(NamedTuple):
    """Steps taken, the last point of the proximal operator, the momentum, the step size, and the search."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    point: Weights
    momentum: jax.Array
    learning_rate: jax.Array
    info: FistaInfo


class _Search(NamedTuple):
    steps: jax.Array
    trial: jax.Array
    rate: jax.Array  # the longest that has passed, or 0
    has_room: jax.Array  # whether along its step a longer one would have passed too
    grows: jax.Array
    done: jax.Array


# From a point, its gradient and the state: the rate, the first trial of the next search, evaluations.
Rates = Callable[[Params, Updates, "FistaState"], tuple[jax.Array, jax.Array, jax.Array]]


def descend_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """A gradient step."""
    return p - s.rate * g


def ahead_rule(x: jax.Array, last: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """The way to the extrapolated point."""
    return x + s.share * (x - last) - p


@transformation(reports=("learning_rate", "evaluations"), last=True, constrained_by=("penalty",))
def fista(
    learning_rate: Rate | None = None,
    penalty: Any = None,
    *,
    restart: bool = True,
    decrease_factor: Decay = 0.5,
    max_learning_rate: Positive = 1e10,
    max_backtracking_steps: Size = 50,
) -> Pair:
    """Accelerated proximal gradient descent, for a smooth convex loss plus a penalty.

        x = prox(p - rate * g, rate)
        t_next = (1 + sqrt(1 + 4 * t^2)) / 2
        p = x + (t - 1) / t_next * (x - x_last)

    Args:
      learning_rate: >= 0, at most one over the Lipschitz constant of the gradient; None searches for it.
      penalty: a value such as `l1_penalty(0.01)`, or a function `(params, step) -> params`; None for none.
      restart: sets `t` to 1, and `p` to `x`, where `<p - x, x - x_last> > 0`: the momentum points uphill.
      decrease_factor: by which a step that fails is made shorter, in [0, 1); below 0.001 it counts as that.
      max_learning_rate: the longest step of a search, > 0.
      max_backtracking_steps: the most evaluations of a search, >= 1.

    A search accepts `f(x) <= f(p) + <g, x - p> + |x - p|^2 / (2 * rate)`. The first one also tries longer
    steps. After a restart's step along which a longer one passes too, the next search begins with that.
    Without a step that passes, there is no step. A search needs the extra arguments `value` and `value_fn`,
    those of the loss without the penalty.
    The solution is `x`, which `eval_params(state, params)` returns: penalized numbers are exactly zero there.
    Needs `params`. Reports `learning_rate` and `evaluations`.
    Sources: Beck & Teboulle 2009; O'Donoghue & Candes 2015 for the restart.
    """
    if penalty is not None:
        check_operator("fista", "penalty", penalty, OPERATOR)

    def init(params: Params) -> OptState:
        dtype = number_dtype(params)
        return FistaState(
            count=zero_scalar(params),
            point=jax.tree.map(lambda p: jnp.array(p, at_least_float32(p.dtype), copy=True), params),
            momentum=zero_scalar(params, dtype, 1),
            learning_rate=zero_scalar(params, dtype, 1),
            info=FistaInfo(zero_scalar(params)),
        )

    def step_to(penalty: Any, start: Params, g: Updates, rate: jax.Array) -> Params:
        (moved,) = leafwise(descend_rule, (g, start), rate=rate)
        return moved if penalty is None else penalty(moved, rate)

    def move(updates: Updates, state: FistaState, params: Params, find: Rates) -> tuple[Updates, FistaState]:
        refuse_varying("the inner products of FISTA", updates, params)
        start, g = jax.tree.map(_as_state, state.point, params), _filled(updates, state.point)
        rate, next_rate, evaluations = find(start, g, state)
        # Without a step that passes there is none: the next search begins where this one did.
        x = tree.where(rate > 0, step_to(penalty, start, g, rate), start)
        kept = jnp.where(rate > 0, next_rate, state.learning_rate).astype(state.learning_rate.dtype)
        uphill = tree.vdot(tree.sub(start, x), tree.sub(x, state.point)).real > 0
        momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        share = (state.momentum - 1) / momentum
        stops = (uphill & restart) | (rate <= 0)
        share, momentum = jnp.where(stops, 0, share), jnp.where(stops, 1, momentum)
        report("learning_rate", rate)
        report("evaluations", evaluations)
        (u,) = leafwise(ahead_rule, (x, state.point, start), share=share)
        u = jax.tree.map(lambda g, u: None if g is None else in_dtype_of(u, g), updates, u, is_leaf=is_none)
        new = FistaState(increment(state.count), x, momentum, kept, FistaInfo(evaluations))
        return u, new

    def update_by_rate(updates: Updates, state: FistaState, params: Params) -> tuple[Updates, FistaState]:
        rate = as_scalar(learning_rate, state.learning_rate.dtype)
        return move(updates, state, params, lambda *_: (rate, rate, zero_scalar(params)))

    def update_by_search(
        updates: Updates, state: FistaState, params: Params, *, value: Any, value_fn: Any, **extra: Any
    ) -> tuple[Updates, FistaState]:
        if not callable(value_fn):
            raise TypeError(
                f"{stage_name()}: extra argument 'value_fn' must be a function; got {describe(value_fn)}"
            )
        keywords = chosen_arguments(value_fn, extra)

        def find(*given: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
            # The derivative of an update treats the step size as a constant.
            here, start, g, state = jax.lax.stop_gradient((loss_value(value), *given))
            fixed = jax.lax.stop_gradient(penalty) if isinstance(penalty, Penalty) else penalty
            dtype = state.learning_rate.dtype
            base = here.astype(dtype)
            # What the value's own rounding changes is not a reason to shorten a step.
            noise = 8 * float(np.finfo(here.dtype).eps) * jnp.abs(base)
            numbers = (max_learning_rate, decrease_factor)
            longest, shrink = (jax.lax.stop_gradient(as_scalar(number, dtype)) for number in numbers)
            shrink = jnp.maximum(shrink, 1e-3)

            def try_step(search: _Search) -> _Search:
                rate = search.trial
                x = step_to(fixed, start, g, rate)
                way = tree.sub(x, start)
                there = real_scalar("what 'value_fn' returns", value_fn(x, **keywords)).astype(dtype)
                linear = tree.vdot(g, way).real.astype(dtype)
                square = tree.vdot(way, way).real.astype(dtype) / (2 * rate)
                # Below the noise a step passes unless the value clearly rises. The rounding of a sum may be
                # larger, and shorter steps change the value less: they would fail again, until none is left.
                seen = square > 16 * noise
                passed = there - base <= linear + square + jnp.where(seen, 1, 1000) * noise
                has_room = there - base - linear + noise <= shrink * square
                grows = search.grows & passed & seen & (rate < longest)
                return _Search(
                    search.steps + 1,
                    jnp.where(passed, jnp.minimum(rate / shrink, longest), rate * shrink),
                    jnp.where(passed, rate, search.rate),
                    jnp.where(passed, has_room, search.has_room),
                    grows,
                    (passed & ~grows) | (~passed & (search.rate > 0)),
                )

            first = jnp.minimum(state.learning_rate, longest)
            no = jnp.zeros_like(first, np.bool_)
            begin = _Search(zero_scalar(params), first, jnp.zeros_like(first), no, state.count == 0, no)
            # Most searches end with their first trial, which is fused with the step outside of the loop.
            end = jax.lax.while_loop(
                lambda s: ~s.done & (s.steps < max_backtracking_steps), try_step, try_step(begin)
            )
            # Longer trials after every restart cost a third of the time of thirty batched lassos.
            longer = jnp.minimum(end.rate / shrink, longest)
            return end.rate, jnp.where((state.momentum == 1) & end.has_room, longer, end.rate), end.steps

        return move(updates, state, params, find)

    return init, update_by_rate if learning_rate is not None else update_by_search


def _as_state(x: jax.Array, p: Any) -> jax.Array:
    return jnp.asarray(p).astype(x.dtype)


def _filled(updates: Updates, point: Params) -> Updates:
    """The gradient in the state's dtypes, with zeros where there is none."""

    def fill(x: Any, g: Any) -> Any:
        return None if x is None else jnp.zeros_like(x) if g is None else g.astype(x.dtype)

    return jax.tree.map(fill, point, updates, is_leaf=is_none)


def _read(params: list[Any], points: list[Any], state: Any) -> list[Any]:
    return [x.astype(p.dtype) for x, p in zip(points, params, strict=True)]


averages(FistaState, "point", _read)
