"""Surrogate gap guided sharpness-aware minimization: SAM that also narrows the gap to the loss nearby."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._coding._leaves import decoded
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import in_range
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Mean, Weights
from gradflow._rules._scaled_norm import rescale_rule, scaled_norm
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._paths import is_none
from gradflow.wrappers._conditional import update_if
from gradflow.wrappers._sam import keep_rule, sam_rule


class GSAMState(NamedTuple):
    """Calls since the last step, the states of both optimizers, and where a round began: the parameters and
    the gradient there."""

    steps_since_sync: jax.Array
    opt_state: OptState
    adv_state: OptState
    cache: Weights
    gradient: Mean


def remember_rule(g: jax.Array, gradient: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """The gradient of the round's first call."""
    return g, jnp.where(s.first, g, gradient)


def gap_scalars(size: jax.Array, power: jax.Array, alpha: jax.Array, cosine: jax.Array) -> Scalars:
    """How much of the two unit gradients is added to the one nearby, times `power`."""
    return {"outward": alpha * size, "along": alpha * size * cosine}


def gap_rule(above: jax.Array, unit_above: jax.Array, unit: jax.Array, s: Any) -> jax.Array:
    """Zhuang et al. 2022, Algorithm 1: the gradient nearby, less alpha of what the other has across it."""
    across = (s.outward * unit - s.along * unit_above) / s.power
    # Beside the largest numbers it would be infinite, and an average of it NaN for good.
    return in_range(above - across) + (above - above)


def begin_round(
    optimizer: GradientTransformation, adv_optimizer: GradientTransformation, params: Params
) -> tuple[Any, ...]:
    """Calls in the round, the states of both optimizers, the parameters' copy and a gradient of zero."""
    opt_state = optimizer.init(params)  # refuses leaves that are not numbers
    cache = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
    return zero_scalar(params), opt_state, adv_optimizer.init(params), cache, first_moment(params)


def where_updated(tree_of_state: Any, updates: Updates) -> Updates:
    """A state's tree in plain arrays, with None where there is no update."""
    plain = decoded(tree_of_state)
    return jax.tree.map(lambda g, x: None if g is None else x, updates, plain, is_leaf=is_none)


def unit_tree(updates: Updates, axes: tuple[str, ...]) -> tuple[Updates, jax.Array, jax.Array]:
    """The updates divided by their norm, zero where it is, and the norm as `size / power`."""
    size, power = scaled_norm(updates, axes)
    inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    (unit,) = leafwise(rescale_rule, (updates,), factor=inverse, power=power)
    return unit, size, power


def cosine_of(unit: Updates, other: Updates, axes: tuple[str, ...]) -> jax.Array:
    """The inner product of two trees of norm one, in [-1, 1]."""
    return jnp.clip(tree.vdot(other, unit, axis_name=axes or None).real, -1, 1)


@transformation(reports=("adversarial",), packable=True)
def gsam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    alpha: NonNegative = 0.4,
    reset_state: bool = True,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """SAM whose step also lowers the gap between the loss nearby and the loss, at no cost to the first.

        ascent:   p = p + e,  where adv_optimizer(g) = -e
        descent:  g' = the gradient there;  across = g - <g, g'> / |g'|^2 * g'
                  p = p - e + optimizer(g' - alpha * across)

    Every step takes two calls, as with `sam`, each with a gradient of its own at the current parameters. The
    parameters after an even number of calls are those to evaluate.

    Args:
      optimizer: takes the steps. Both optimizers receive extra arguments.
      adv_optimizer: takes the ascent steps: `chain(normalize(), sgd(rho))`. The paper's rho falls with the
        learning rate. It counts steps, like `optimizer`.
      alpha: >= 0; 0 is `sam`. The authors' 0.4 by default.
      reset_state: initializes the state of `adv_optimizer` again after each step.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    Reports `adversarial`, whether the call ascended. Source: Zhuang et al. 2022, arXiv:2203.08065.

    >>> import gradflow as gf
    >>> print(gf.gsam(gf.adamw(1e-3), gf.chain(gf.normalize(), gf.sgd(0.05))))
    gsam(adamw(0.001), chain(normalize(), sgd(0.05)))
    """
    check_axis_name("gsam", axis_name)

    def init(params: Params) -> OptState:
        return GSAMState(*begin_round(optimizer, adv_optimizer, params))

    def update(updates: Updates, state: GSAMState, params: Params, **extra: Any) -> tuple[Updates, GSAMState]:
        axes = sum_axes(axis_name, updates, params)
        first = state.steps_since_sync == 0
        (kept,) = leafwise(keep_rule, (params, state.cache), first=first)
        _, gradient = leafwise(remember_rule, (updates, state.gradient), first=first)
        above, *_ = unit_tree(updates, axes)
        unit, size, power = unit_tree(where_updated(gradient, updates), axes)
        (direction,) = leafwise(
            gap_rule, (updates, above, unit), gap_scalars,
            size=size, power=power, alpha=alpha, cosine=cosine_of(unit, above, axes),
        )  # fmt: skip
        ascent, adv_state = update_if(first, adv_optimizer, updates, state.adv_state, params, extra)
        u, opt_state = update_if(~first, optimizer, direction, state.opt_state, kept, extra)
        (u,) = leafwise(sam_rule, (u, ascent, kept, params), last=~first)
        if reset_state:
            adv_state = jax.lax.cond(first, lambda old: old, lambda old: adv_optimizer.init(kept), adv_state)
        report("adversarial", first)
        steps = jnp.where(first, increment(state.steps_since_sync), 0)
        return u, GSAMState(steps, opt_state, adv_state, kept, gradient)

    return init, update
