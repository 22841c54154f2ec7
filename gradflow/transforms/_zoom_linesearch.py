"""A line search for the strong Wolfe conditions: a lower loss and a flatter slope."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Fraction, Limit, NonNegative, Positive, PositiveLimit, Size
from gradflow._rules._leafwise import as_scalar
from gradflow._rules._roles import Other
from gradflow._rules._state import stack_scalars, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._linesearch_common import (
    Line,
    Point,
    first_rate,
    line_along,
    number_dtype,
    print_search,
    scale_updates,
    with_old_dtypes,
)

STRATEGIES = ("keep", "one")

_MARGIN = 0.05  # fraction of the interval at either end without trials
_RETREAT = 0.25  # fraction of the distance to a point where the loss is NaN
_REACH = 5.0  # largest number of growths per extrapolation


class ZoomLinesearchInfo(NamedTuple):
    """Evaluations of the last search, and the violations of the conditions; 0 if they hold."""

    num_linesearch_steps: jax.Array
    decrease_error: jax.Array
    curvature_error: jax.Array


class ScaleByZoomLinesearchState(NamedTuple):
    """Step size of the last search, or its last trial if it took none; loss and gradient; statistics."""

    learning_rate: jax.Array
    value: jax.Array
    grad: Other
    info: ZoomLinesearchInfo


class Options(NamedTuple):
    """How trials grow, the narrowest interval, the longest step, and the most trials."""

    growth: jax.Array
    precision: jax.Array
    limit: jax.Array
    most: int


class Criteria(NamedTuple):
    """The two conditions. Losses closer to each other than `noise` are compared by their slopes."""

    slope_rtol: jax.Array
    curv_rtol: jax.Array
    tol: jax.Array
    approx_dec_rtol: jax.Array | None

    def noise(self, start: Point) -> jax.Array:
        if self.approx_dec_rtol is None:
            return jnp.zeros_like(start.value)
        level = jnp.abs(start.value)
        return self.approx_dec_rtol * jnp.where(level < jnp.inf, level, 0)

    def decrease_error(self, start: Point, at: Point) -> jax.Array:
        rise = at.value - start.value
        descent = jnp.minimum(start.slope, 0)
        error = rise - self.slope_rtol * at.rate * descent
        if self.approx_dec_rtol is not None:
            flatter = at.slope - (2 * self.slope_rtol - 1) * descent
            error = jnp.minimum(error, jnp.maximum(rise - self.noise(start), flatter))
        return jnp.maximum(error - self.tol, 0)

    def curvature_error(self, start: Point, at: Point) -> jax.Array:
        # 0 * inf, where the slope is 0, is not a condition either.
        bound = jnp.where(self.curv_rtol < jnp.inf, self.curv_rtol * jnp.abs(start.slope), jnp.inf)
        return jnp.maximum(jnp.abs(at.slope) - bound - self.tol, 0)


class Search(NamedTuple):
    """The state of a running search; `grad` is the gradient at its best point.

    Its other numbers are one array, so that they compile to one operation, not a dozen. They are the next
    trial, or NaN at the end of the search, then four points: the start; `low`, where the loss has decreased
    and the slope points to `high`; `high`, too far or infinity; and the best point.
    """

    steps: jax.Array
    numbers: jax.Array
    grad: Any

    def unpack(self) -> tuple[jax.Array, Point, Point, Point, Point]:
        trial, *rest = self.numbers
        start, low, high, best = (Point(*rest[i : i + 3]) for i in range(0, 12, 3))
        return trial, start, low, high, best


def _pack(trial: jax.Array, *points: Point) -> jax.Array:
    return stack_scalars([trial, *(number for point in points for number in point)], trial.dtype)


def _select(condition: jax.Array, new: Point, old: Point) -> Point:
    return Point(*(jnp.where(condition, a, b) for a, b in zip(new, old, strict=True)))


def _between(low: Point, high: Point, noise: jax.Array) -> jax.Array:
    """The minimum of the cubic through two points with their slopes; of a parabola where values are noise.

    Nocedal & Wright 2006, equation 3.59, kept off both ends.
    """
    width = high.rate - low.rate
    rise = high.value - low.value
    ease = low.slope + high.slope - 3 * rise / width
    root = jnp.sign(width) * jnp.sqrt(jnp.maximum(ease * ease - low.slope * high.slope, 0))
    cubic = 1 - (high.slope + root - ease) / (high.slope - low.slope + 2 * root)
    parabola = low.slope / (low.slope - high.slope)
    part = jnp.where(jnp.abs(rise) <= noise, parabola, cubic)
    part = jnp.where(jnp.isfinite(part), jnp.clip(part, _MARGIN, 1 - _MARGIN), 0.5)
    # A loss of NaN only shows that the point is too far.
    known = jnp.isfinite(high.value) & jnp.isfinite(high.slope)
    return low.rate + jnp.where(known, part, _RETREAT) * width


def _beyond(low: Point, here: Point, growth: jax.Array) -> jax.Array:
    """The zero of the slope extrapolated from `low` and `here`, kept between the growth limits."""
    flat = here.rate - here.slope * (here.rate - low.rate) / (here.slope - low.slope)
    most = _REACH * growth * here.rate
    return jnp.clip(jnp.where(here.slope > low.slope, flat, most), growth * here.rate, most)


def zoom(line: Line, test: Criteria, first: jax.Array, options: Options) -> Search:
    """Brackets a step that passes, then zooms in on it, with one evaluation per trial.

    Algorithms 3.5 and 3.6 of Nocedal & Wright are one loop over an interval that starts as (0, infinity).
    """

    def next_trial(search: Search) -> Search:
        at, start, low, high, best = search.unpack()
        value, slope, grad = line.evaluate(at)
        here = Point(at, value, slope)
        noise = test.noise(start)
        usable = jnp.isfinite(value) & jnp.isfinite(slope)
        decreases = usable & (test.decrease_error(start, here) <= 0)
        accepted = decreases & (test.curvature_error(start, here) <= 0)
        too_far = ~decreases | (value > low.value + noise)
        turned = slope * jnp.sign(high.rate - low.rate) >= 0
        new_high = _select(too_far, here, _select(turned, low, high))
        new_low = _select(too_far, low, here)
        trial = jnp.where(
            new_high.rate < jnp.inf,
            _between(new_low, new_high, noise),
            jnp.minimum(_beyond(low, here, options.growth), options.limit),
        )
        narrow = (jnp.abs(new_high.rate - new_low.rate) <= options.precision) & (new_low.rate > 0)
        no_room = (trial == new_low.rate) | (trial == new_high.rate)
        better = (value < best.value) | (~too_far & (value <= best.value + noise))
        keep = accepted | (usable & better)
        trial = jnp.where(accepted | narrow | no_room, jnp.nan, trial)
        return Search(
            search.steps + 1,
            _pack(trial, start, new_low, new_high, _select(keep, here, best)),
            jax.tree.map(lambda new, old: jnp.where(keep, new, old), grad, search.grad),
        )

    start = line.start
    far = start._replace(rate=jnp.full_like(start.rate, jnp.inf))
    numbers = _pack(jnp.minimum(first, options.limit), start, start, far, start)
    begin = Search(jnp.zeros((), jnp.int32), numbers, line.grad)
    return jax.lax.while_loop(lambda s: (s.steps < options.most) & (s.numbers[0] >= 0), next_trial, begin)


@transformation(reports=("learning_rate", "evaluations"), elementwise=True)
def scale_by_zoom_linesearch(
    max_linesearch_steps: Size,
    max_learning_rate: PositiveLimit | None = None,
    tol: Limit = 0.0,
    increase_factor: Positive = 2.0,
    slope_rtol: Fraction = 1e-4,
    curv_rtol: Limit = 0.9,
    approx_dec_rtol: NonNegative | None = 1e-6,
    stepsize_precision: NonNegative = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> Pair:
    """Multiplies the updates by a step size at which the loss is lower and its slope flatter.

        f(p + rate * u) <= f(p) + slope_rtol * rate * <u, grad> + tol
        |<u, grad f(p + rate * u)>| <= curv_rtol * |<u, grad>| + tol

    Args:
      max_linesearch_steps: maximum number of evaluations of the loss and its gradient, >= 1.
      max_learning_rate: the longest step, > 0, or None for no bound.
      tol: slack of both conditions, >= 0.
      increase_factor: smallest factor by which a step that is too short grows.
      slope_rtol: in [0, 1].
      curv_rtol: >= 0, larger than slope_rtol; `inf` drops the condition on the slope.
      approx_dec_rtol: relative change of the loss below which slopes decide about the decrease (Hager &
        Zhang 2005); None disables this.
      stepsize_precision: width of an interval at which the search ends, >= 0.
      initial_guess_strategy: "one", or "keep" for the last step size.
      verbose: prints each search.

    `update` needs the extra arguments `value`, `grad` as `jax.grad` returns it, and `value_fn`, which is
    called with the parameters and the other extra arguments that it names. If no trial passes, the step with
    the lowest loss is taken; if none is lower, the step is 0 and "keep" goes on from the last trial.
    Source: Nocedal & Wright 2006, algorithms 3.5 and 3.6.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.sgd(1.0), gf.scale_by_zoom_linesearch(15)))
    chain(sgd(1.0), scale_by_zoom_linesearch(15))
    """
    if initial_guess_strategy not in STRATEGIES:
        raise ValueError(
            "scale_by_zoom_linesearch: argument 'initial_guess_strategy' must be 'keep' or 'one'; got "
            f"{describe(initial_guess_strategy)}"
        )

    def init(params: Params) -> OptState:
        dtype = number_dtype(params)
        return ScaleByZoomLinesearchState(
            learning_rate=zero_scalar(params, dtype, 1),
            value=zero_scalar(params, dtype, jnp.inf),
            grad=tree.zeros_like(params),
            info=ZoomLinesearchInfo(
                num_linesearch_steps=zero_scalar(params),
                decrease_error=zero_scalar(params, dtype, jnp.inf),
                curvature_error=zero_scalar(params, dtype, jnp.inf),
            ),
        )

    def update(
        updates: Updates,
        state: ScaleByZoomLinesearchState,
        params: Params,
        *,
        value: Any,
        grad: Any,
        value_fn: Any,
        **extra: Any,
    ) -> tuple[Updates, ScaleByZoomLinesearchState]:
        line = line_along(updates, params, value, grad, value_fn, extra, state.grad)
        dtype = line.dtype

        def fixed(number: Any) -> Any:
            return jax.lax.stop_gradient(as_scalar(number, dtype))

        test = Criteria(
            fixed(slope_rtol),
            fixed(curv_rtol),
            fixed(tol),
            None if approx_dec_rtol is None else fixed(approx_dec_rtol),
        )
        options = Options(
            growth=fixed(increase_factor),
            precision=fixed(stepsize_precision),
            limit=fixed(jnp.inf if max_learning_rate is None else max_learning_rate),
            most=max_linesearch_steps,
        )
        one = jnp.ones((), dtype)
        first = one if initial_guess_strategy == "one" else first_rate(state.learning_rate, one, dtype)
        found = zoom(line, test, first, options)
        _, start, _, high, best = found.unpack()
        info = ZoomLinesearchInfo(
            found.steps, test.decrease_error(start, best), test.curvature_error(start, best)
        )
        if verbose:
            print_search("scale_by_zoom_linesearch", best, info)
        report("learning_rate", best.rate)
        report("evaluations", found.steps)
        # Without a lower loss every trial was too far, and `high` is the last one.
        last = jnp.where(high.rate < jnp.inf, high.rate, 0)
        next_start = line.next_rate(best.rate, last, first)
        new_state = ScaleByZoomLinesearchState(next_start, best.value, found.grad, info)
        return scale_updates(updates, best.rate), with_old_dtypes(new_state, state)

    return init, update
