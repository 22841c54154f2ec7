"""Means over examples, and over several batches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain, identity, init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Sum
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._types import EmptyState, OptState, Pair, Params, Updates
from gradflow.aggregating._aggregator import Aggregator, MaybeAxis
from gradflow.aggregating._examples import check_axis, means


class AccumulateAvgUpdatesState(NamedTuple):
    """Accumulated batches, whether the last call emitted their mean, and the mean."""

    micro_step: jax.Array
    ready: jax.Array
    avg_grad: Sum


def running_scalars(micro_step: jax.Array, weight: jax.Array, ready: jax.Array) -> Scalars:
    """The weights of a batch; the first one of a round discards the last mean."""
    kind = weight.dtype
    return {
        "keep": (micro_step > 0).astype(kind),
        "twice_share": 2 * weight / (micro_step + 1).astype(kind),
        "out": ready.astype(kind),
    }


def running_mean_rule(g: jax.Array, mean: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """The mean of the batches so far, emitted with the last one."""
    mean = s.keep * mean
    # The difference of halves is finite.
    mean = mean + s.twice_share * (g / 2 - mean / 2)
    return jnp.where(s.out > 0, mean, 0), mean


@transformation(trees="structure")
def average_per_element_updates(per_elt_axis: int | Sequence[int] = 0) -> Pair:
    """Averages per-example gradients over one or more axes of every leaf.

    Args:
      per_elt_axis: the axis or axes of the examples.

    Raises ValueError for leaves with different numbers of examples, and inside `shard_map` where leaves
    differ along an axis.

    >>> import gradflow as gf
    >>> import numpy as np
    >>> tx = gf.aggregating.average_per_element_updates()
    >>> updates, state = tx.update(np.asarray([1.0, 3.0], np.float32), tx.init(0.0))
    >>> float(updates)
    2.0
    """
    axes = check_axis("average_per_element_updates", per_elt_axis)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, **_: Any
    ) -> tuple[Updates, EmptyState]:
        return means(updates, axes), state

    return Aggregator(init_empty_state, update)


@transformation(packable=True)
def accumulate_avg_updates(accumulation_steps: Size) -> Pair | GradientTransformation:
    """Averages the updates of several calls: returns the mean on the last of them, else zeros.

    Args:
      accumulation_steps: calls per round, >= 1; 1 gives the identity.

    The field `ready` of its state is True if the last call returned a mean, which `process` uses.

    >>> import gradflow as gf
    >>> print(gf.aggregating.accumulate_avg_updates(4))
    accumulate_avg_updates(4)
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
    """`average_per_element_updates`, unless `per_elt_axis=None`, then `accumulate_avg_updates`.

    >>> import gradflow as gf
    >>> print(gf.aggregating.average_incrementally_updates(None, 4))
    average_incrementally_updates(None, 4)
    """
    accumulate = accumulate_avg_updates(accumulation_steps)
    if per_elt_axis is None:
        return accumulate
    return Aggregator(*chain(average_per_element_updates(per_elt_axis), accumulate))
