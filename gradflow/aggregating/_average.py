"""Means over examples, and over several batches of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain, identity, init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._types import EmptyState, OptState, Pair, Params, Updates
from gradflow.aggregating._aggregator import Aggregator, MaybeAxis
from gradflow.aggregating._examples import check_axis, means


class AccumulateAvgUpdatesState(NamedTuple):
    """Batches in hand, whether the last call let their mean out, and the mean."""

    micro_step: jax.Array
    ready: jax.Array
    avg_grad: Updates


def running_scalars(micro_step: jax.Array, weight: jax.Array, ready: jax.Array) -> Scalars:
    """The first batch finds the leftovers of the last round, which count no more."""
    kind = weight.dtype
    return {
        "keep": (micro_step > 0).astype(kind),
        "share": weight / (micro_step + 1).astype(kind),
        "out": ready.astype(kind),
    }


def running_mean_rule(g: jax.Array, mean: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """The mean of the batches so far, let out with the last."""
    mean = s.keep * mean
    mean = mean + s.share * (g - mean)
    return jnp.where(s.out > 0, mean, 0), mean


@transformation(trees="structure")
def average_per_element_updates(per_elt_axis: int | Sequence[int] = 0) -> Pair:
    """The mean of the gradients of examples, which lie along one axis, or several, of every leaf.

    Args:
      per_elt_axis: the axis, or the axes.

    Raises ValueError for leaves of different numbers of examples, and inside `shard_map` where leaves differ
    along an axis.
    """
    axes = check_axis("average_per_element_updates", per_elt_axis)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, **_: Any
    ) -> tuple[Updates, EmptyState]:
        return means(updates, axes), state

    return Aggregator(init_empty_state, update)


@transformation(packable=True)
def accumulate_avg_updates(accumulation_steps: Size) -> Pair | GradientTransformation:
    """The mean of the updates of several calls, let out on the last of them; zeros on the others.

    Args:
      accumulation_steps: calls in a round, >= 1; with 1 it is the identity.

    Its state's `ready` says whether the last call let a mean out, for `process` to go on with.
    """
    if accumulation_steps == 1:
        return identity()

    def init(params: Params) -> OptState:
        mean = jax.tree.map(lambda p: first_moment(p, at_least_float32(p.dtype)), params)
        return AccumulateAvgUpdatesState(zero_scalar(params), zero_scalar(params, bool, False), mean)

    def update(
        updates: Updates, state: AccumulateAvgUpdatesState, params: Params | None = None
    ) -> tuple[Updates, AccumulateAvgUpdatesState]:
        step = increment(state.micro_step)
        ready = step >= accumulation_steps
        u, mean = leafwise(
            running_mean_rule, (updates, state.avg_grad), running_scalars,
            micro_step=state.micro_step, weight=1.0, ready=ready.astype(jnp.int32),
        )  # fmt: skip
        return u, AccumulateAvgUpdatesState(jnp.where(ready, 0, step), ready, mean)

    return init, update


@transformation(packable=True)
def average_incrementally_updates(
    per_elt_axis: MaybeAxis, accumulation_steps: Size
) -> GradientTransformation:
    """`average_per_element_updates`, then `accumulate_avg_updates`; that alone for `per_elt_axis=None`."""
    accumulate = accumulate_avg_updates(accumulation_steps)
    if per_elt_axis is None:
        return accumulate
    return Aggregator(*chain(average_per_element_updates(per_elt_axis), accumulate))
