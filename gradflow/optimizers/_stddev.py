"""The gradient over its standard deviation, as in centered RMSProp."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, InitialNonNegative, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates


class ScaleByRStdDevState(NamedTuple):
    """The average of the gradient, and of its squared deviation from that average."""

    mu: Mean
    nu: Square


class ScaleByRStdDevWithCountState(NamedTuple):
    """Steps taken, and the two averages: for the bias correction."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square


def stddev_scalars(decay: jax.Array, **_: jax.Array) -> Scalars:
    """The decay's complement, and the weight of a squared deviation."""
    c = 1 - decay
    return {"c": c, "weight": c * decay}


def corrected_stddev_scalars(count: jax.Array, decay: jax.Array, **_: jax.Array) -> Scalars:
    """`stddev_scalars` with the bias correction for `count` gradients."""
    c = 1 - decay
    total = one_minus_power(c, count)
    # The first step has no earlier average: where `before` is 0, so is mu.
    before = one_minus_power(c, count - 1)
    known = before > jnp.zeros_like(before)
    return {
        "c": c,
        "weight": c * decay * before / total,
        "debias_before": 1 / jnp.where(known, before, jnp.ones_like(before)),
        "debias": 1 / total,
    }


@traced_once
def stddev_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Graves 2013, equations 38-45; `nu` is his `n - g^2`, summed without cancellation."""
    nu = s.decay * nu + s.weight * bounded_square(g, s.debias_before * mu)
    mu = s.decay * mu + s.c * bounded(g)
    return bounded(g) / (safe_sqrt(s.debias * nu + s.eps_in) + s.eps_out), mu, nu


@transformation(packable=True)
def scale_by_stddev(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Pair:
    """Divides the gradient by its standard deviation.

        nu = decay * (nu + (1 - decay) * |g - mu|^2)
        mu = decay * mu + (1 - decay) * g
        u = g / sqrt(nu + eps)          with eps_in_sqrt=False:  u = g / (sqrt(nu) + eps)

    `nu` equals the average square minus the squared average, but never rounds to a negative number. A
    constant gradient has no deviation: its updates grow to `g / sqrt(eps)`.

    Args:
      decay: of both averages, in [0, 1).
      eps: added inside or outside the root, >= 0.
      initial_scale: the first `nu`, >= 0.
      eps_in_sqrt: True adds `eps` inside the root, as Keras does; False outside, as PyTorch does.
      bias_correction: corrects both averages for the steps so far; its state also counts them.

    Source: Graves 2013, arXiv:1308.0850.
    """
    inside, outside = (eps, 0.0) if eps_in_sqrt else (0.0, eps)

    def init(params: Params) -> OptState:
        # In half precision the average would stall short of the gradient; the rest would count as deviation.
        mu = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        nu = second_moment(params, value=initial_scale)
        if bias_correction:
            return ScaleByRStdDevWithCountState(zero_scalar(params), mu, nu)
        return ScaleByRStdDevState(mu, nu)

    def update(
        updates: Updates, state: ScaleByRStdDevState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRStdDevState]:
        u, mu, nu = leafwise(
            stddev_rule, (updates, state.mu, state.nu), stddev_scalars,
            decay=decay, debias_before=1.0, debias=1.0, eps_in=inside, eps_out=outside,
        )  # fmt: skip
        return u, ScaleByRStdDevState(mu, nu)

    def corrected_update(
        updates: Updates, state: ScaleByRStdDevWithCountState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRStdDevWithCountState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            stddev_rule, (updates, state.mu, state.nu), corrected_stddev_scalars,
            count=count, decay=decay, eps_in=inside, eps_out=outside,
        )  # fmt: skip
        return u, ScaleByRStdDevWithCountState(count, mu, nu)

    return init, corrected_update if bias_correction else update
