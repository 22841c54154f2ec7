"""Means and variances of per-example gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._core._compose import chain, identity, init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded_square, one_minus_power, saturated
from gradflow._rules._roles import Mean, Square, Sum
from gradflow._rules._state import at_least_float32, first_moment, increment, second_moment, zero_scalar
from gradflow._types import EmptyState, OptState, Pair, Params, Updates
from gradflow.aggregating._aggregator import Aggregator
from gradflow.aggregating._examples import (
    check_axis,
    get_batch_size_from_per_elt_updates,
    means,
    squared_deviations,
)
from gradflow.aggregating._process import process


class PerElementMeanAndSumSqDiffGradsState(NamedTuple):
    """Accumulated batches, whether the last call emitted results, the mean of the gradients, and the sum of
    their squared distances from it."""

    micro_step: jax.Array
    ready: jax.Array
    mean_grads: Sum
    sum_sq_diff_grads: Sum


class PerElementMeanAndVarianceEMAState(NamedTuple):
    """Steps taken, the decay, and the averages of mean and variance, which start at zero."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    ema_decay: jax.Array
    mean_grads_ema: Mean
    variance_grads_ema: Square


def joining_scalars(micro_step: jax.Array, size: jax.Array, ready: jax.Array) -> Scalars:
    """The weights of the batches so far and of the new one, for half of the distance between their means."""
    before = micro_step.astype(size.dtype)
    share = 1 / (before + 1)
    return {
        "keep": (before > 0).astype(size.dtype),
        "twice_share": 2 * share,
        "between_halves": 4 * before * size * share,
        "out": ready.astype(size.dtype),
    }


def joining_rule(
    g: jax.Array, apart: jax.Array, mean: jax.Array, total: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Chan, Golub & LeVeque 1979: mean and squared distances of two samples combined."""
    # Selected, not multiplied by 0, because the square of a large number may overflow.
    later = s.keep > 0
    mean = jnp.where(later, mean, 0)
    half = g / 2 - mean / 2  # the difference itself may overflow
    mean = mean + s.twice_share * half
    total = saturated(apart + jnp.where(later, total + s.between_halves * bounded_square(half), 0))
    out = s.out > 0
    return jnp.where(out, mean, 0), jnp.where(out, total, 0), mean, total


@transformation(trees="differ")
def get_per_element_mean_and_sum_sq_diff_grads(
    per_elt_axis: int | Sequence[int] = 0, accumulation_steps: Size = 1
) -> Pair:
    """Computes mean and spread of per-example gradients, for `process` with `aggregator_has_aux`.

    Its updates are a pair: the mean, and `{"sum_sq_diff_grads": ..., "sample_size": ...}`, the sum of squared
    distances from the mean and the number of examples.

    Args:
      per_elt_axis: the axis or axes of the examples.
      accumulation_steps: batches per result, >= 1; before the last of them results are zero.

    >>> import gradflow as gf
    >>> print(gf.aggregating.get_per_element_mean_and_sum_sq_diff_grads(0, 4))
    get_per_element_mean_and_sum_sq_diff_grads(accumulation_steps=4)
    """
    axes = check_axis("get_per_element_mean_and_sum_sq_diff_grads", per_elt_axis)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, **_: Any
    ) -> tuple[Updates, EmptyState]:
        mean, apart, size = _measure(updates, axes)
        return (mean, {"sum_sq_diff_grads": apart, "sample_size": jnp.asarray(size, np.int32)}), state

    def init(params: Params) -> OptState:
        return PerElementMeanAndSumSqDiffGradsState(
            micro_step=zero_scalar(params),
            ready=zero_scalar(params, bool, False),
            mean_grads=jax.tree.map(lambda p: first_moment(p, at_least_float32(p.dtype)), params),
            sum_sq_diff_grads=second_moment(params),
        )

    def accumulating_update(
        updates: Updates,
        state: PerElementMeanAndSumSqDiffGradsState,
        params: Params | None = None,
        **_: Any,
    ) -> tuple[Updates, PerElementMeanAndSumSqDiffGradsState]:
        mean, apart, size = _measure(updates, axes)
        step = increment(state.micro_step)
        ready = step >= accumulation_steps
        mean, apart, mean_grads, total = leafwise(
            joining_rule, (mean, apart, state.mean_grads, state.sum_sq_diff_grads), joining_scalars,
            micro_step=state.micro_step, size=float(size), ready=ready.astype(np.int32),
        )  # fmt: skip
        aux = {"sum_sq_diff_grads": apart, "sample_size": jnp.where(ready, size * step, 0)}
        new_state = PerElementMeanAndSumSqDiffGradsState(jnp.where(ready, 0, step), ready, mean_grads, total)
        return (mean, aux), new_state

    if accumulation_steps == 1:
        return Aggregator(init_empty_state, update)
    return Aggregator(init, accumulating_update)


def _measure(updates: Updates, axes: tuple[int, ...]) -> tuple[Updates, Updates, int]:
    size = get_batch_size_from_per_elt_updates(updates, axes)
    return means(updates, axes), squared_deviations(updates, axes), size


def averaging_scalars(ema_decay: jax.Array, sample_size: jax.Array) -> Scalars:
    """The decay's complement, and the factor from squared distances to variance: 0 for a single example."""
    others = jnp.maximum(sample_size - 1, 1).astype(ema_decay.dtype)
    return {"c": 1 - ema_decay, "per_degree": 1 / others}


def averaging_rule(
    g: jax.Array, mean: jax.Array, variance: jax.Array, apart: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Both averages, and the unchanged gradient."""
    mean = s.ema_decay * mean + s.c * g
    return g, mean, saturated(s.ema_decay * variance + s.c * s.per_degree * apart)


@transformation
def track_per_element_mean_and_variance_with_ema(ema_decay: Decay = 0.9) -> Pair:
    """Averages the mean gradient and the variance over steps; updates pass through.

    Needs the extra arguments `sum_sq_diff_grads` and `sample_size`, which `process` passes on from
    `get_per_element_mean_and_sum_sq_diff_grads`. Read the averages with
    `get_unbiased_mean_and_variance_ema(state)`.

    Args:
      ema_decay: of both averages, in [0, 1).

    >>> import gradflow as gf
    >>> print(gf.aggregating.track_per_element_mean_and_variance_with_ema())
    track_per_element_mean_and_variance_with_ema()
    """

    def init(params: Params) -> OptState:
        return PerElementMeanAndVarianceEMAState(
            count=zero_scalar(params),
            ema_decay=zero_scalar(params, np.float32) + jnp.asarray(ema_decay, np.float32),
            mean_grads_ema=jax.tree.map(lambda p: first_moment(p, at_least_float32(p.dtype)), params),
            variance_grads_ema=second_moment(params),
        )

    def update(
        updates: Updates,
        state: PerElementMeanAndVarianceEMAState,
        params: Params | None = None,
        *,
        sum_sq_diff_grads: Any,
        sample_size: Any,
    ) -> tuple[Updates, PerElementMeanAndVarianceEMAState]:
        u, mean, variance = leafwise(
            averaging_rule,
            (updates, state.mean_grads_ema, state.variance_grads_ema, sum_sq_diff_grads), averaging_scalars,
            ema_decay=ema_decay, sample_size=jnp.asarray(sample_size, np.int32),
        )  # fmt: skip
        decay = jnp.zeros_like(state.ema_decay) + jnp.asarray(ema_decay, np.float32)
        return u, PerElementMeanAndVarianceEMAState(increment(state.count), decay, mean, variance)

    return init, update


def debiasing_scalars(ema_decay: jax.Array, count: jax.Array) -> Scalars:
    """The inverse of the sum of weights so far; 0 before the first."""
    weights = one_minus_power(1 - ema_decay, count)
    return {"debias": jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1), 0)}


def debiasing_rule(average: jax.Array, s: Any) -> jax.Array:
    """The average corrected for the start at zero."""
    return s.debias * average


def get_unbiased_mean_and_variance_ema(state: OptState) -> tuple[Updates, Updates]:
    """Returns the averages of `track_per_element_mean_and_variance_with_ema` from a state.

    They are zero before the first step. Raises ValueError if the state has none, KeyError for several.

    >>> import gradflow as gf
    >>> tx = gf.aggregating.track_per_element_mean_and_variance_with_ema()
    >>> mean, variance = gf.aggregating.get_unbiased_mean_and_variance_ema(tx.init(0.0))
    >>> float(mean), float(variance)
    (0.0, 0.0)
    """
    kept = tree.get(state, "PerElementMeanAndVarianceEMAState")
    if kept is None:
        raise ValueError(
            "get_unbiased_mean_and_variance_ema: argument 'state' must have a "
            f"PerElementMeanAndVarianceEMAState inside; got {describe(state)}"
        )
    averages = (kept.mean_grads_ema, kept.variance_grads_ema)
    (mean,), (variance,) = (
        leafwise(debiasing_rule, (a,), debiasing_scalars, ema_decay=kept.ema_decay, count=kept.count)
        for a in averages
    )
    return mean, variance


@transformation
def add_mean_variance_to_opt(
    opt: GradientTransformation,
    ema_decay: Decay = 0.9,
    per_elt_axis: int | Sequence[int] = 0,
    accumulation_steps: Size = 1,
) -> GradientTransformation:
    """Applies `opt` to the mean of per-example gradients, and averages their mean and variance.

    Args:
      opt: the optimizer.
      ema_decay: of both averages, in [0, 1).
      per_elt_axis: the axis or axes of the examples.
      accumulation_steps: batches per step, >= 1.

    Read the averages with `get_unbiased_mean_and_variance_ema(state)`.

    >>> import gradflow as gf
    >>> print(gf.aggregating.add_mean_variance_to_opt(gf.adam(0.001)))
    add_mean_variance_to_opt(adam(0.001))
    """
    return process(
        identity(),
        get_per_element_mean_and_sum_sq_diff_grads(per_elt_axis, accumulation_steps),
        chain(track_per_element_mean_and_variance_with_ema(ema_decay), opt),
        aggregator_has_aux=True,
    )
