"""LookSAM: sharpness-aware minimization that ascends only once in k steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative, Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import in_range
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Mean, Weights
from gradflow._rules._state import increment
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if
from gradflow.wrappers._gsam import begin_round, cosine_of, unit_tree, where_updated
from gradflow.wrappers._sam import keep_rule, sam_rule


class LookSAMState(NamedTuple):
    """Calls since the round began, the states of both optimizers, the parameters where it began, and a
    direction: the gradient there, and from the second call on the unit direction to flatter places."""

    steps_since_sync: jax.Array
    opt_state: OptState
    adv_state: OptState
    cache: Weights
    direction: Mean


def across_rule(unit: jax.Array, before: jax.Array, g: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """What the gradient nearby has across the one before it, as a multiple of its own norm."""
    return unit - s.cosine * before, g


def look_scalars(alpha: jax.Array, size: jax.Array, power: jax.Array, **calls: jax.Array) -> Scalars:
    """How much of the direction is added, times `power`; none in the call that measures it."""
    return {"share": jnp.where(calls["is_later"], alpha * size, 0)}


def look_rule(g: jax.Array, direction: jax.Array, measured: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Liu et al. 2022, Algorithm 1: the gradient, and between ascents also the last direction."""
    kept = jnp.where(s.is_second, measured, direction)
    # Beside the largest numbers it would be infinite, and an average of it NaN for good.
    u = in_range(g + s.share * kept / s.power) + (g - g)
    return u, jnp.where(s.is_first, g, kept)


@transformation(reports=("adversarial",), packable=True)
def looksam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: Size = 5,
    alpha: NonNegative = 0.7,
    reset_state: bool = True,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """SAM in one of `sync_period` steps; the others reuse the direction to flatter places that it found.

        ascent:   p = p + e,  where adv_optimizer(g) = -e
        step 1:   g' = the gradient there;  v = g' - <g, g'> / |g|^2 * g;  p = p - e + optimizer(g')
        others:   p = p + optimizer(g + alpha * |g| / |v| * v)

    A round has `sync_period` steps and takes one call more than that, each with a gradient at the current
    parameters. All but those after its first call are parameters to evaluate.

    Args:
      optimizer: takes the steps. Both optimizers receive extra arguments.
      adv_optimizer: takes the ascent step: `chain(normalize(), sgd(rho))`.
      sync_period: steps in a round, >= 1; 1 is `sam`. The paper's 5 by default.
      alpha: share of the direction in the other steps, >= 0; the paper's 0.7 by default.
      reset_state: initializes the state of `adv_optimizer` again after each ascent.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    Norms are over all leaves. Reports `adversarial`, whether the call ascended.
    Source: Liu et al. 2022, arXiv:2203.02714.

    >>> import gradflow as gf
    >>> print(gf.looksam(gf.adamw(1e-3), gf.chain(gf.normalize(), gf.sgd(0.05))))
    looksam(adamw(0.001), chain(normalize(), sgd(0.05)))
    """
    check_axis_name("looksam", axis_name)

    def init(params: Params) -> OptState:
        return LookSAMState(*begin_round(optimizer, adv_optimizer, params))

    def update(
        updates: Updates, state: LookSAMState, params: Params, **extra: Any
    ) -> tuple[Updates, LookSAMState]:
        axes = sum_axes(axis_name, updates, params)
        calls = state.steps_since_sync
        first, second = calls == 0, calls == 1
        (kept,) = leafwise(keep_rule, (params, state.cache), first=~second)
        unit, size, power = unit_tree(updates, axes)
        measured = _direction(unit, where_updated(state.direction, updates), axes)
        g, direction = leafwise(
            look_rule, (updates, state.direction, measured), look_scalars,
            alpha=alpha, size=size, power=power, is_first=first, is_second=second, is_later=calls > 1,
        )  # fmt: skip
        ascent, adv_state = update_if(first, adv_optimizer, updates, state.adv_state, params, extra)
        u, opt_state = update_if(~first, optimizer, g, state.opt_state, kept, extra)
        (u,) = leafwise(sam_rule, (u, ascent, kept, params), last=~first)
        if reset_state:
            adv_state = jax.lax.cond(first, lambda old: old, lambda old: adv_optimizer.init(kept), adv_state)
        report("adversarial", first)
        steps = jnp.where(calls >= sync_period, 0, increment(calls))
        return u, LookSAMState(steps, opt_state, adv_state, kept, direction)

    return init, update


def _direction(unit: Updates, gradient: Updates, axes: tuple[str, ...]) -> Updates:
    """The unit direction of what the gradient nearby has across the one where the ascent began."""
    before, *_ = unit_tree(gradient, axes)
    across, _ = leafwise(across_rule, (unit, before, gradient), cosine=cosine_of(unit, before, axes))
    return unit_tree(across, axes)[0]
