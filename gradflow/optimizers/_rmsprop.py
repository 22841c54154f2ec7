"""RMSProp: rates that follow the recent size of gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._base import GradientTransformation, OptState, Pair, Params, Updates, transformation
from gradflow._compose import chain, identity
from gradflow._hyper import Decay, Fraction, InitialNonNegative, Positive, Rate
from gradflow._leafwise import Scalars, abs_sq, leafwise, one_minus_power, safe_sqrt
from gradflow._state import first_moment, increment, second_moment, zero_scalar
from gradflow.transforms import scale_by_learning_rate, trace


class ScaleByRmsState(NamedTuple):
    """The average of squared gradients."""

    nu: Updates


class ScaleByRmsWithCountState(NamedTuple):
    """Steps taken, and the average of squared gradients."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    nu: Updates


class ScaleByRStdDevState(NamedTuple):
    """The average of gradients, and of their squared distance from it."""

    mu: Updates
    nu: Updates


class ScaleByRStdDevWithCountState(NamedTuple):
    """Steps taken, the average of gradients, and of their squared distance from it."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Updates
    nu: Updates


def rms_scalars(decay: jax.Array, count: jax.Array | None = None, **_: jax.Array) -> Scalars:
    """The weight of the new gradient and, given the step from 1, the bias correction."""
    c = 1 - decay
    bias = jnp.ones_like(c) if count is None else one_minus_power(c, count)
    return {"c": c, "debias": 1 / bias}


def rms_rule(g: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Tieleman & Hinton 2012, eps inside the root."""
    nu = s.decay * nu + s.c * abs_sq(g)
    return g / safe_sqrt(s.debias * nu + s.eps), nu


def rms_rule_eps_outside(g: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The same, eps outside the root."""
    nu = s.decay * nu + s.c * abs_sq(g)
    return g / (safe_sqrt(s.debias * nu) + s.eps), nu


def stddev_scalars(decay: jax.Array, count: jax.Array | None = None, **_: jax.Array) -> Scalars:
    """The share of the new gradient in the averages; corrected for bias it is the whole at the first step."""
    c = 1 - decay
    return {"share": c if count is None else c / one_minus_power(c, count)}


def stddev_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Graves 2013, with the variance itself averaged: E[g^2] - E[g]^2, which cancels, is never formed."""
    apart = g - mu
    mu = mu + s.share * apart
    nu = (1 - s.share) * (nu + s.share * abs_sq(apart))
    return g / safe_sqrt(nu + s.eps), mu, nu


def stddev_rule_eps_outside(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The same, eps outside the root."""
    apart = g - mu
    mu = mu + s.share * apart
    nu = (1 - s.share) * (nu + s.share * abs_sq(apart))
    return g / (safe_sqrt(nu) + s.eps), mu, nu


def _filled(moment: Updates, value: Any) -> Updates:
    start = jnp.asarray(value)
    return jax.tree.map(lambda zero: zero + start.astype(zero.dtype), moment)


@transformation
def scale_by_rms(
    decay: Decay = 0.9,
    eps: Positive = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Pair:
    """Divides the gradient by the root of its averaged square.

        nu = decay * nu + (1 - decay) * |g|^2
        u = g / sqrt(nu + eps)          with eps_in_sqrt=False:  u = g / (sqrt(nu) + eps)

    Args:
      decay: decay of the average, in [0, 1).
      eps: > 0.
      initial_scale: where the average begins, >= 0.
      eps_in_sqrt: as in Keras; PyTorch has eps outside.
      bias_correction: divides nu by `1 - decay^t`.

    Source: Tieleman & Hinton 2012, Coursera lecture 6.5.
    """
    rule = rms_rule if eps_in_sqrt else rms_rule_eps_outside

    def init(params: Params) -> OptState:
        nu = _filled(second_moment(params), initial_scale)
        return ScaleByRmsWithCountState(zero_scalar(params), nu) if bias_correction else ScaleByRmsState(nu)

    def update(
        updates: Updates, state: ScaleByRmsState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRmsState]:
        u, nu = leafwise(rule, (updates, state.nu), rms_scalars, decay=decay, eps=eps)
        return u, ScaleByRmsState(nu)

    def corrected_update(
        updates: Updates, state: ScaleByRmsWithCountState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRmsWithCountState]:
        count = increment(state.count)
        u, nu = leafwise(rule, (updates, state.nu), rms_scalars, decay=decay, eps=eps, count=count)
        return u, ScaleByRmsWithCountState(count, nu)

    return init, corrected_update if bias_correction else update


@transformation
def scale_by_stddev(
    decay: Decay = 0.9,
    eps: Positive = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Pair:
    """Divides the gradient by its averaged standard deviation.

        apart = g - mu
        mu = mu + (1 - decay) * apart
        nu = decay * (nu + (1 - decay) * |apart|^2)
        u = g / sqrt(nu + eps)

    `nu` is E|g|^2 - |E g|^2 of the averages with that decay, in a form that cannot turn negative. Arguments
    as in `scale_by_rms`; with `bias_correction` the share `1 - decay` is divided by `1 - decay^t`.

    Source: Graves 2013, arXiv:1308.0850.
    """
    rule = stddev_rule if eps_in_sqrt else stddev_rule_eps_outside

    def init(params: Params) -> OptState:
        mu, nu = first_moment(params), _filled(second_moment(params), initial_scale)
        if bias_correction:
            return ScaleByRStdDevWithCountState(zero_scalar(params), mu, nu)
        return ScaleByRStdDevState(mu, nu)

    def update(
        updates: Updates, state: ScaleByRStdDevState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRStdDevState]:
        u, mu, nu = leafwise(rule, (updates, state.mu, state.nu), stddev_scalars, decay=decay, eps=eps)
        return u, ScaleByRStdDevState(mu, nu)

    def corrected_update(
        updates: Updates, state: ScaleByRStdDevWithCountState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRStdDevWithCountState]:
        count = increment(state.count)
        trees = (updates, state.mu, state.nu)
        u, mu, nu = leafwise(rule, trees, stddev_scalars, decay=decay, eps=eps, count=count)
        return u, ScaleByRStdDevWithCountState(count, mu, nu)

    return init, corrected_update if bias_correction else update


@transformation
def rmsprop(
    learning_rate: Rate,
    decay: Decay = 0.9,
    eps: Positive = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """RMSProp: `scale_by_rms`, or `scale_by_stddev` where centred, the learning rate, then momentum.

    Args:
      centered: divides by the standard deviation instead of the root mean square.
      momentum: decay of a `trace` of the updates, in [0, 1]; None keeps none.
      nesterov: lets the trace look one step ahead.

    The others as in `scale_by_rms`. PyTorch has `decay=0.99, eps_in_sqrt=False`.
    """
    scaling = scale_by_stddev if centered else scale_by_rms
    return chain(
        scaling(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )
