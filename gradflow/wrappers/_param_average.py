"""Averages of the parameters that any optimizer reaches, for evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Index, Iterations, Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._eval_params import averages


class ParamEmaState(NamedTuple):
    """Steps taken, the weighted sum of the parameters, the sum of the weights, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    ema: Weights
    weight: jax.Array
    inner_state: OptState


def param_ema_scalars(decay: jax.Array) -> Scalars:
    """The weight of the newest parameters."""
    return {"c": 1 - decay}


def param_ema_rule(u: jax.Array, ema: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """ema = decay * ema + (1 - decay) * (p + u)."""
    return u, s.decay * ema + s.c * (p + u)


@transformation(packable=True)
def with_param_ema(inner: GradientTransformation, decay: Decay = 0.999) -> Pair:
    """Keeps an exponential moving average of the parameters that `inner` reaches, for `eval_params`.

        ema = decay * ema + (1 - decay) * (p + u)
        weight = decay * weight + (1 - decay)
        eval_params(state, params) = ema / weight

    Args:
      inner: the whole optimizer: a stage after this one would change the update that is averaged.
      decay: in [0, 1), a number or a schedule; the average looks back about `1 / (1 - decay)` steps.

    The average is held in float32 at least, and does not include the initial parameters.
    Source: Polyak & Juditsky 1992; with the weights of Kingma & Ba 2014, arXiv:1412.6980, section 7.2.

    >>> import gradflow as gf
    >>> print(gf.with_param_ema(gf.adamw(1e-3), 0.999))
    with_param_ema(adamw(0.001))
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # raises for leaves that are not numbers
        return ParamEmaState(
            zero_scalar(params), _zeros(params), zero_scalar(params, jnp.float32), inner_state
        )

    def update(
        updates: Updates, state: ParamEmaState, params: Params, **extra: Any
    ) -> tuple[Updates, ParamEmaState]:
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        updates, ema = leafwise(param_ema_rule, (updates, state.ema, params), param_ema_scalars, decay=decay)
        d = jnp.asarray(decay, jnp.float32)
        weight = d * state.weight + (1 - d)
        return updates, ParamEmaState(increment(state.count), ema, weight, inner_state)

    return init, update


class SwaState(NamedTuple):
    """Steps taken, the mean of the parameters so far, the number of its terms, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    average: Weights
    averaged: jax.Array
    inner_state: OptState


def swa_rule(u: jax.Array, average: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """average = average + share * (p + u - average)."""
    return u, average + s.share * (p + u - average)


@transformation(reports=("averaged",), elementwise=True)
def with_swa(inner: GradientTransformation, start_step: Index = 0, every: Size = 1) -> Pair:
    """Keeps the mean of the parameters at every `every`-th step from `start_step` on, for `eval_params`.

    Args:
      inner: the whole optimizer: a stage after this one would change the update that is averaged.
      start_step: steps before the first parameters in the mean, >= 0; in the paper three quarters of all.
      every: steps between parameters in the mean, >= 1; the length of a cycle of the rate, or of an epoch.

    The mean is held in float32 at least. While it is empty, `eval_params` returns the parameters
    themselves. Reports `averaged`, the number of terms. Source: Izmailov et al. 2018, arXiv:1803.05407.

    >>> import gradflow as gf
    >>> print(gf.with_swa(gf.sgd(0.1), start_step=1000))
    with_swa(sgd(0.1), start_step=1000)
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)
        return SwaState(zero_scalar(params), _zeros(params), zero_scalar(params), inner_state)

    def update(updates: Updates, state: SwaState, params: Params, **extra: Any) -> tuple[Updates, SwaState]:
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        taken = _is_due(state.count, start_step, every)
        averaged = jnp.where(taken, increment(state.averaged), state.averaged)
        share = jnp.where(taken, 1 / jnp.maximum(averaged, 1).astype(jnp.float32), 0)
        updates, average = leafwise(swa_rule, (updates, state.average, params), share=share)
        report("averaged", averaged)
        return updates, SwaState(increment(state.count), average, averaged, inner_state)

    return init, update


class LawaState(NamedTuple):
    """Steps taken, the latest parameters along a first axis, how many were stored, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    latest: Weights
    kept: jax.Array
    inner_state: OptState


def lawa_rule(u: jax.Array, latest: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """latest[slot] = p + u, on the steps that are stored."""
    old = jax.lax.dynamic_index_in_dim(latest, s.slot, keepdims=False)
    new = jnp.where(s.taken > 0, p + u, old)
    return u, jax.lax.dynamic_update_index_in_dim(latest, new, s.slot, 0)


@transformation(reports=("averaged",), elementwise=True)
def with_lawa(inner: GradientTransformation, window: Iterations = 6, every: Size = 1) -> Pair:
    """Keeps the parameters of every `every`-th step, the latest `window`; `eval_params` returns their mean.

    Args:
      inner: the whole optimizer: a stage after this one would change the update that is averaged.
      window: how many are kept, >= 1, each as large as the model; 6 in the paper.
      every: steps between them, >= 1; those of an epoch in the paper.

    They are held in float32 at least. While there is none, `eval_params` returns the parameters themselves.
    Reports `averaged`, the number of those kept. Source: Kaddour 2022, arXiv:2209.14981.

    >>> import gradflow as gf
    >>> print(gf.with_lawa(gf.adamw(0.001), every=100))
    with_lawa(adamw(0.001), every=100)
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)
        latest = jax.tree.map(lambda z: _stacked(z, window), _zeros(params))
        return LawaState(zero_scalar(params), latest, zero_scalar(params), inner_state)

    def update(updates: Updates, state: LawaState, params: Params, **extra: Any) -> tuple[Updates, LawaState]:
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        taken = _is_due(state.count, every - 1, every)
        latest = state.latest
        if jax.tree.leaves(updates):
            updates, latest = leafwise(
                lawa_rule, (updates, latest, params), shapes=False,
                slot=state.kept % window, taken=taken.astype(jnp.float32),
            )  # fmt: skip
        kept = jnp.where(taken, increment(state.kept), state.kept)
        report("averaged", jnp.minimum(kept, window))
        return updates, LawaState(increment(state.count), latest, kept, inner_state)

    return init, update


def _zeros(params: Params) -> Params:
    return jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)


def _stacked(zeros: jax.Array, window: int) -> jax.Array:
    """`window` copies along a first axis, each with the sharding of the original."""
    return jnp.stack([zeros] * window)


def _is_due(count: jax.Array, start: int, every: int) -> jax.Array:
    """Whether the parameters after step `count` (from 0) are averaged."""
    since = count - start
    return (since >= 0) & (since % every == 0)


def ema_read_rule(p: jax.Array, ema: jax.Array, s: Any) -> jax.Array:
    """ema / weight; p while there is none."""
    return jnp.where(s.weight > 0, ema / jnp.where(s.weight > 0, s.weight, 1), p)


def swa_read_rule(p: jax.Array, average: jax.Array, s: Any) -> jax.Array:
    """The average; p while there is none."""
    return jnp.where(s.averaged > 0, average, p)


def lawa_read_rule(p: jax.Array, latest: jax.Array, s: Any) -> jax.Array:
    """The mean of those kept; p while there is none."""
    total = jnp.sum(latest, axis=0)
    return jnp.where(s.kept > 0, total / jnp.maximum(s.kept, 1), p)


def _read_ema(params: list[Any], ema: list[Any], state: ParamEmaState) -> list[Any]:
    (found,) = leafwise(ema_read_rule, (params, ema), weight=state.weight)
    return list(found)


def _read_swa(params: list[Any], average: list[Any], state: SwaState) -> list[Any]:
    (found,) = leafwise(swa_read_rule, (params, average), averaged=state.averaged)
    return list(found)


def _read_lawa(params: list[Any], latest: list[Any], state: LawaState) -> list[Any]:
    # All slots have the same number of entries in every leaf.
    window = latest[0].shape[0] if latest else 1
    kept = jnp.minimum(state.kept, window).astype(jnp.float32)
    (found,) = leafwise(lawa_read_rule, (params, latest), shapes=False, kept=kept)
    return list(found)


averages(ParamEmaState, "ema", _read_ema)
averages(SwaState, "average", _read_swa)
averages(LawaState, "latest", _read_lawa)
