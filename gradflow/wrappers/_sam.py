"""Sharpness-aware minimization: the gradient is taken where the loss nearby is highest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import as_arrays, check_like, match_params
from gradflow._calls._reports import report
from gradflow._core._apply import apply_updates
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name
from gradflow._rules._roles import Weights
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if


class SAMState(NamedTuple):
    """Calls since the last step, the states of both optimizers, and the parameters where the round began;
    None for these in opaque mode."""

    steps_since_sync: jax.Array
    opt_state: OptState
    adv_state: OptState
    cache: Weights


def keep_rule(p: jax.Array, cache: jax.Array, s: Any) -> jax.Array:
    """The parameters of the round's first call."""
    return jnp.where(s.first, p, cache)


def sam_rule(u: jax.Array, adversarial: jax.Array, cache: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """Foret et al. 2020, Algorithm 1: an ascent step, or back to the cached parameters and a descent step."""
    return jnp.where(s.last, cache - p + u, -adversarial)


@transformation(reports=("adversarial",), elementwise=True)
def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: Size = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: AxisName = None,
) -> Pair:
    """Ascends with `adv_optimizer`, takes the gradient there, and applies it where the ascent began.

        sam(sgd(0.1), chain(normalize(), sgd(rho)))           the paper's, with radius rho

    Of `sync_period` calls all but the last ascend and move the parameters, so each needs a gradient of its
    own. The parameters after the last call of a round are those to evaluate.

    Args:
      optimizer: takes the steps. Both optimizers receive extra arguments.
      adv_optimizer: takes the ascent steps; its updates are applied with the opposite sign.
      sync_period: calls in a round, >= 1; with 1 there is no ascent.
      reset_state: initializes the state of `adv_optimizer` again after each round.
      opaque_mode: a whole round in one call of `update(grads, state, params, grad_fn=...)`, where
        `grad_fn(params, i)` is the gradient after ascent step i, from 0.
      batch_axis_name: axes over which the gradients of `grad_fn` are averaged.

    A zero gradient does not move the parameters, also if `adv_optimizer` normalizes. Reports `adversarial`,
    whether the call ascended. Raises TypeError in opaque mode without `grad_fn`.
    Source: Foret et al. 2020, arXiv:2010.01412.

    >>> import gradflow as gf
    >>> print(gf.sam(gf.adamw(1e-3), gf.chain(gf.normalize(), gf.sgd(0.05))))
    sam(adamw(0.001), chain(normalize(), sgd(0.05)))
    """
    check_axis_name("sam", batch_axis_name)

    def init(params: Params) -> OptState:
        cache = None if opaque_mode else jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return SAMState(zero_scalar(params), optimizer.init(params), adv_optimizer.init(params), cache)

    def update(updates: Updates, state: SAMState, params: Params, **extra: Any) -> tuple[Updates, SAMState]:
        first = state.steps_since_sync == 0
        last = state.steps_since_sync >= sync_period - 1
        (kept,) = leafwise(keep_rule, (params, state.cache), first=first)
        ascent, adv_state = update_if(~last, adv_optimizer, updates, state.adv_state, params, extra)
        u, opt_state = update_if(last, optimizer, updates, state.opt_state, kept, extra)
        (u,) = leafwise(sam_rule, (u, ascent, kept, params), last=last)
        if reset_state:
            adv_state = jax.lax.cond(last, lambda old: adv_optimizer.init(kept), lambda old: old, adv_state)
        report("adversarial", ~last)
        steps = jnp.where(last, 0, increment(state.steps_since_sync))
        return u, SAMState(steps, opt_state, adv_state, kept)

    def opaque_update(
        updates: Updates,
        state: SAMState,
        params: Params,
        *,
        grad_fn: Callable[[Params, int], Updates],
        **extra: Any,
    ) -> tuple[Updates, SAMState]:
        moved, adv_state = params, state.adv_state
        for i in range(sync_period - 1):
            ascent, adv_state = adv_optimizer.update(updates, adv_state, moved, **extra)
            moved = apply_updates(moved, tree.scale(-1, ascent))
            updates = as_arrays(grad_fn(moved, i))
            if batch_axis_name is not None:
                updates = jax.lax.pmean(updates, batch_axis_name)
            check_like("the gradients of 'grad_fn'", updates, "params", params)
            updates = match_params(updates, params)
        u, opt_state = optimizer.update(updates, state.opt_state, params, **extra)
        if reset_state:
            adv_state = adv_optimizer.init(params)
        report("adversarial", jnp.asarray(False))
        return u, SAMState(jnp.zeros_like(state.steps_since_sync), opt_state, adv_state, None)

    return init, opaque_update if opaque_mode else update
