"""Bayesian SAM: sharpness-aware minimization with a learned variance of every weight."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, InitialPositive, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, in_range, safe_sqrt
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Mean, Square, Weights
from gradflow._rules._state import at_least_float32, first_moment, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._keys import check_key, key_state, next_key, normal_like
from gradflow.wrappers._eval_params import averages


class BSAMState(NamedTuple):
    """Steps taken, calls since the last one, the PRNG key's data, the mean of the weights, the average of
    their gradients, the precision, and the gradient of the step's first call."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    steps_since_sync: jax.Array
    rng_key: jax.Array
    center: Weights
    mu: Mean
    precision: Square
    gradient: Mean


def bsam_scalars(b1: jax.Array, b2: jax.Array, num_examples: jax.Array, **_: jax.Array) -> Scalars:
    """The complements of the decays, and the deviation of the noise at a precision of one."""
    return {"c1": 1 - b1, "c2": 1 - b2, "deviation": 1 / jnp.sqrt(num_examples)}


def bsam_rule(
    g: jax.Array,
    center: jax.Array,
    mu: jax.Array,
    precision: jax.Array,
    gradient: jax.Array,
    p: jax.Array,
    sample: jax.Array,
    s: Any,
) -> tuple[jax.Array, ...]:
    """Möllenhoff and Khan 2023, Algorithm 1: climbs from the mean, or moves the mean and draws a point."""
    invalid = g - g  # NaN where the gradient is not finite
    climbed = center + s.rho * bounded(g) / precision
    mean = s.b1 * mu + s.c1 * (bounded(g) + s.weight_decay * center)
    moved = center - s.learning_rate * mean / precision
    growth = safe_sqrt(precision) * safe_sqrt(bounded_square(gradient)) + s.damping + s.weight_decay
    grown = s.b2 * precision + s.c2 * growth
    drawn = moved + s.deviation * sample / safe_sqrt(grown)
    u = in_range(jnp.where(s.first, climbed, drawn) - p) + invalid
    kept = (center, mu, precision, g)
    new = (moved + invalid, mean + invalid, grown, gradient)
    return u, *(jnp.where(s.first, old, now) for old, now in zip(kept, new, strict=True))


@transformation(steps="count", reports=("adversarial", "learning_rate"))
def bsam(
    learning_rate: Rate,
    num_examples: Positive,
    rho: NonNegative = 0.01,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    weight_decay: NonNegative = 5e-4,
    damping: Positive = 0.1,
    initial_precision: InitialPositive = 1.0,
    *,
    key: Any = 0,
    axis_name: AxisName = None,
) -> Pair:
    """SAM that learns a precision `s` for every number; it climbs and steps less where that is large.

        call 1:  g at p = w + e,  e ~ N(0, 1 / (num_examples * s));      p = w + rho * g / s
        call 2:  g' there;  m = b1 * m + (1 - b1) * (g' + weight_decay * w);  w = w - learning_rate * m / s
                 s = b2 * s + (1 - b2) * (sqrt(s) * |g| + weight_decay + damping);  p = w + e, drawn again

    Every step takes two calls, as with `sam`, each with a gradient at the current parameters. `eval_params`
    returns w. The parameters after an even number of calls are a sample of N(w, 1 / (num_examples * s)).

    Args:
      learning_rate: a number >= 0 or a schedule of steps; the authors' is 0.5 on images.
      num_examples: examples in the training set, > 0, over which `loss` is a mean. With augmented images the
        authors take four times as many.
      rho: how far to climb, >= 0; the authors' 0.01 by default.
      b1: decay of the gradients' average, in [0, 1).
      b2: decay of the precision, in [0, 1).
      weight_decay: >= 0, the prior's precision over `num_examples`: the authors' 25 / 50,000 by default.
      damping: > 0, keeps the precision above it; the authors' 0.1 by default.
      initial_precision: s at the start, > 0.
      key: a PRNG key, or an integer seed, of the noise.
      axis_name: for a call inside `shard_map`; see `add_noise`.

    w is held in float32 at least. The first gradient of all is at w. Reports `learning_rate` and
    `adversarial`, whether the call climbed. Source: Möllenhoff and Khan 2023, arXiv:2210.01620.
    """
    check_axis_name("bsam", axis_name)
    check_key("bsam", key)

    def init(params: Params) -> OptState:
        return BSAMState(
            count=zero_scalar(params),
            steps_since_sync=zero_scalar(params),
            rng_key=key_state(key, params),
            center=jax.tree.map(lambda p: jnp.array(p, at_least_float32(p.dtype), copy=True), params),
            mu=first_moment(params),
            precision=second_moment(params, value=initial_precision),
            gradient=first_moment(params),
        )

    def update(updates: Updates, state: BSAMState, params: Params) -> tuple[Updates, BSAMState]:
        first = state.steps_since_sync == 0
        now, later = next_key(key, state.rng_key)
        samples = normal_like(now, updates, sum_axes(axis_name, updates, params))
        u, *rest = leafwise(
            bsam_rule,
            (updates, state.center, state.mu, state.precision, state.gradient, params, samples), bsam_scalars,
            learning_rate=learning_rate, num_examples=num_examples, rho=rho, b1=b1, b2=b2,
            weight_decay=weight_decay, damping=damping, first=first,
        )  # fmt: skip
        report("adversarial", first)
        report("learning_rate", learning_rate)
        calls = jnp.where(first, increment(state.steps_since_sync), 0)
        count = jnp.where(first, state.count, increment(state.count))
        return u, BSAMState(count, calls, later, *rest)

    return init, update


def center_rule(p: jax.Array, center: jax.Array, s: Any) -> jax.Array:
    """The mean of the weights."""
    return center


def _read(params: list[Any], center: list[Any], state: BSAMState) -> list[Any]:
    (found,) = leafwise(center_rule, (params, center))
    return list(found)


averages(BSAMState, "center", _read)
