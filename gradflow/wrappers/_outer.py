"""An outer optimizer for what an inner one did in many steps: Lookahead, SNOO, DiLoCo, MuLoCo."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._paths import is_none
from gradflow.wrappers._conditional import update_if


class OuterState(NamedTuple):
    """Steps since the last synchronization, the states of both optimizers, and the slow weights."""

    steps_since_sync: jax.Array
    inner_state: OptState
    outer_state: OptState
    slow: Weights


def drift_rule(u: jax.Array, slow: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """How far the fast weights have moved since the last synchronization, with the sign of a gradient."""
    return u, slow - (p + u)


def outer_rule(
    u: jax.Array, slow: jax.Array, slow_u: jax.Array, p: jax.Array, s: Any
) -> tuple[jax.Array, jax.Array]:
    """The inner step; or the outer one, to which the fast weights jump."""
    due = s.due > 0
    moved = jnp.where(due, slow + slow_u, slow)
    return jnp.where(due, moved - p, u), moved


@transformation(reports=("synced",), packable=True)
def outer(
    inner: GradientTransformation,
    outer_optimizer: GradientTransformation,
    sync_period: Size,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Every `sync_period` steps an outer optimizer takes a step along the way that `inner` has gone.

        p = p + inner(g)
        every sync_period steps:  slow = slow + outer_optimizer(slow - p),  p = slow

    By the outer optimizer this is

        Lookahead            sgd(0.5)
        SNOO                 sgd(0.7, 0.9, nesterov=True)
        DiLoCo, MuLoCo       the same, with axis_name="workers"

    Args:
      inner: takes the steps. Extra arguments reach both.
      outer_optimizer: is called with `slow - p` as gradient and `slow` as parameters. Its schedules count
        synchronizations.
      sync_period: steps between synchronizations, >= 1.
      axis_name: axes of `shard_map` or `vmap` along which workers train apart. In a synchronization
        `slow - p` is averaged along them: one all-reduce of the parameters' bytes, in a branch. No other
        step communicates.

    The slow weights are held in float32 at least. Needs `params`. Reports `synced`.
    Source: Zhang et al. 2019, arXiv:1907.08610; Douillard et al. 2023, arXiv:2311.08105.

    >>> import gradflow as gf
    >>> print(gf.outer(gf.adamw(1e-3), gf.sgd(0.7, 0.9, nesterov=True), 50))
    outer(adamw(0.001), sgd(0.7, momentum=0.9, nesterov=True), 50)
    """
    check_axis_name("outer", axis_name)

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # refuses leaves that are not numbers
        slow = jax.tree.map(lambda p: jnp.array(p, at_least_float32(p.dtype), copy=True), params)
        return OuterState(zero_scalar(params), inner_state, outer_optimizer.init(slow), slow)

    def update(
        updates: Updates, state: OuterState, params: Params, **extra: Any
    ) -> tuple[Updates, OuterState]:
        axes = () if axis_name is None else sum_axes(axis_name)
        u, inner_state = inner.update(updates, state.inner_state, params, **extra)
        steps = increment(state.steps_since_sync)
        due = steps >= sync_period
        u, drift = leafwise(drift_rule, (u, state.slow, params))
        # Where there is no update the rule left the slow weights in the place of a difference.
        drift = jax.tree.map(lambda x, d: None if x is None else d, u, drift, is_leaf=is_none)
        if axes:
            drift = _averaged_if(due, drift, axes)
        slow_u, outer_state = update_if(due, outer_optimizer, drift, state.outer_state, state.slow, extra)
        u, slow = leafwise(outer_rule, (u, state.slow, slow_u, params), due=due)
        report("synced", due)
        return u, OuterState(jnp.where(due, 0, steps), inner_state, outer_state, slow)

    return init, update


def _averaged_if(due: jax.Array, drift: Updates, axes: tuple[str, ...]) -> Updates:
    """The mean of all workers' drifts where `due`: in a branch, as a select would communicate always."""

    def mean(drift: Updates) -> Updates:
        # The mean varies along no axis, the drift does. XLA removes the select, which has the type of both.
        return jax.tree.map(
            lambda own, m: jax.lax.select(jnp.zeros(own.shape, bool), own, m),
            drift,
            jax.lax.pmean(drift, axes),
        )

    averaged: Updates = jax.lax.cond(due, mean, lambda drift: drift, drift)
    return averaged
