"""Lookahead: fast weights take every step, slow weights follow them at intervals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like, match_params
from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._coding._leaves import coded_like
from gradflow._core._apply import apply_updates
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Fraction, Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._map_params import has_placeholder


class LookaheadParams(NamedTuple):
    """The fast parameters, at which gradients are taken, and the slow ones, which follow them."""

    fast: Params
    slow: Params

    @classmethod
    def init_synced(cls, params: Params) -> "LookaheadParams":
        """Makes both from one tree; the slow ones are copies, so that both may be donated."""
        return cls(params, jax.tree.map(lambda p: jnp.array(p, copy=True), params))


class LookaheadState(NamedTuple):
    """The state of the fast optimizer, and its steps since the last synchronization."""

    fast_state: OptState
    steps_since_sync: jax.Array


def lookahead_scalars(synced: jax.Array, slow_step_size: jax.Array) -> Scalars:
    """Whether this step synchronizes, and the slow weights' share of the way to the fast ones (or 0)."""
    step = synced.astype(slow_step_size.dtype)
    return {"synced": step, "pace": step * slow_step_size}


def lookahead_rule(
    u: jax.Array, _: jax.Array, fast: jax.Array, slow: jax.Array, s: Any
) -> tuple[jax.Array, jax.Array]:
    """Zhang et al. 2019, Algorithm 1, for both sets of weights."""
    way = fast + u - slow
    together = slow + s.pace * way - fast
    synced = s.synced > 0
    return jnp.where(synced, together, u), jnp.where(synced, s.pace * way, 0)


@transformation(trees="differ", reports=("synced",))
def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: Size,
    slow_step_size: Fraction,
    reset_state: bool = False,
) -> Pair:
    """Moves slow weights toward the fast ones every `sync_period` steps; the fast ones continue from there.

        fast = fast + u                                       u: the update of `fast_optimizer`
        every sync_period steps:  slow = fast = slow + slow_step_size * (fast - slow)

    Parameters and updates are `LookaheadParams`; gradients are those of `params.fast` alone:

        params = LookaheadParams.init_synced(weights)
        updates, state = tx.update(grad(loss)(params.fast), state, params)

    Args:
      fast_optimizer: takes the steps, and receives extra arguments.
      sync_period: steps between synchronizations, >= 1.
      slow_step_size: in [0, 1]; 0.5 in the paper.
      reset_state: initializes the state of `fast_optimizer` again at each synchronization.

    Use `params.slow` for evaluation. Reports `synced`. Raises TypeError for other parameters.
    Source: Zhang et al. 2019, arXiv:1907.08610.

    >>> import gradflow as gf
    >>> print(gf.lookahead(gf.sgd(0.1), 5, 0.5))
    lookahead(sgd(0.1), 5, 0.5)
    """

    def init(params: Params) -> OptState:
        if has_placeholder(params) and not isinstance(params, LookaheadParams):  # from `tree.map_params`
            return LookaheadState(fast_optimizer.init(params), zero_scalar(params))
        _check_params(params)
        return LookaheadState(fast_optimizer.init(params.fast), zero_scalar(params))

    def update(
        updates: Updates, state: LookaheadState, params: Params, **extra: Any
    ) -> tuple[Updates, LookaheadState]:
        _check_params(params)
        check_like("updates", updates, "the fast parameters", params.fast)
        updates = match_params(updates, params.fast)
        updates, fast_state = fast_optimizer.update(updates, state.fast_state, params.fast, **extra)
        steps = increment(state.steps_since_sync)
        synced = steps >= sync_period
        # The slow updates have the dtype of the fast ones.
        fast, slow = leafwise(
            lookahead_rule, (updates, updates, params.fast, params.slow), lookahead_scalars,
            synced=synced, slow_step_size=slow_step_size,
        )  # fmt: skip
        if reset_state:
            fast_state = jax.lax.cond(
                synced,
                lambda old: coded_like(fast_optimizer.init(apply_updates(params.fast, fast)), old),
                lambda old: old,
                fast_state,
            )
        report("synced", synced)
        return LookaheadParams(fast, slow), LookaheadState(fast_state, jnp.where(synced, 0, steps))

    return init, update


def _check_params(params: Params) -> None:
    if not isinstance(params, LookaheadParams):
        foreign = getattr(params, "_fields", None) == LookaheadParams._fields
        hint = "LookaheadParams(*params)" if foreign else "LookaheadParams.init_synced(params)"
        raise TypeError(
            f"{stage_name()}: argument 'params' must be gradflow's LookaheadParams; got {describe(params)}. "
            f"Make them with {hint}"
        )
