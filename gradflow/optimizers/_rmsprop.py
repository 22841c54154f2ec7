"""RMSProp: the gradient over the root of the average of its square."""

from typing import Any, NamedTuple

import jax

from gradflow._core._compose import chain, identity
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Fraction, InitialNonNegative, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Square
from gradflow._rules._state import increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._stddev import scale_by_stddev
from gradflow.transforms import scale_by_learning_rate, trace


class ScaleByRmsState(NamedTuple):
    """The average of the gradient's square."""

    nu: Square


class ScaleByRmsWithCountState(NamedTuple):
    """Steps taken, and the average of the gradient's square: for the bias correction."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    nu: Square


def rms_scalars(decay: jax.Array, **_: jax.Array) -> Scalars:
    """The decay's complement."""
    return {"c": 1 - decay}


def corrected_rms_scalars(count: jax.Array, decay: jax.Array, **_: jax.Array) -> Scalars:
    """The decay's complement, and the bias correction of step `count`, which begins at 1."""
    c = 1 - decay
    return {"c": c, "debias": 1 / one_minus_power(c, count)}


@traced_once
def rms_rule(g: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Hinton 2012, and Graves 2013 with eps inside the root: `eps_in`, or outside: `eps_out`."""
    nu = s.decay * nu + s.c * bounded_square(g)
    return bounded(g) / (safe_sqrt(s.debias * nu + s.eps_in) + s.eps_out), nu


@transformation(packable=True)
def scale_by_rms(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Pair:
    """Divides the gradient by the root of its averaged square.

        nu = decay * nu + (1 - decay) * |g|^2
        u = g / sqrt(nu + eps)          with eps_in_sqrt=False:  u = g / (sqrt(nu) + eps)

    Args:
      decay: of the average, in [0, 1); 0.9 as in Hinton's, where PyTorch has 0.99.
      eps: added inside or outside the root, >= 0.
      initial_scale: the first average, >= 0.
      eps_in_sqrt: True adds `eps` inside the root, as Keras does; False outside, as PyTorch does.
      bias_correction: divides `nu` by `1 - decay^t` first; its state also counts steps.

    Source: Hinton 2012, lecture 6e of "Neural networks for machine learning".

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_rms(0.99), gf.scale_by_learning_rate(1e-3)))
    chain(scale_by_rms(decay=0.99), scale_by_learning_rate(0.001))
    """
    inside, outside = (eps, 0.0) if eps_in_sqrt else (0.0, eps)

    def init(params: Params) -> OptState:
        nu = second_moment(params, value=initial_scale)
        return ScaleByRmsWithCountState(zero_scalar(params), nu) if bias_correction else ScaleByRmsState(nu)

    def update(
        updates: Updates, state: ScaleByRmsState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRmsState]:
        u, nu = leafwise(
            rms_rule, (updates, state.nu), rms_scalars,
            decay=decay, debias=1.0, eps_in=inside, eps_out=outside,
        )  # fmt: skip
        return u, ScaleByRmsState(nu)

    def corrected_update(
        updates: Updates, state: ScaleByRmsWithCountState, params: Params | None = None
    ) -> tuple[Updates, ScaleByRmsWithCountState]:
        count = increment(state.count)
        u, nu = leafwise(
            rms_rule, (updates, state.nu), corrected_rms_scalars,
            count=count, decay=decay, eps_in=inside, eps_out=outside,
        )  # fmt: skip
        return u, ScaleByRmsWithCountState(count, nu)

    return init, corrected_update if bias_correction else update


@transformation
def rmsprop(
    learning_rate: Rate,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: InitialNonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """RMSProp: `scale_by_rms`, the learning rate, then momentum if it is given.

    Args:
      learning_rate: a number >= 0 or a schedule.
      centered: `scale_by_stddev` in place of `scale_by_rms`; Graves 2013, arXiv:1308.0850.
      momentum: decay of a `trace` of the finished steps, in [0, 1]; None keeps no state for it.
      nesterov: the trace uses the momentum of the next step.

    The others and the source as in `scale_by_rms`.
    """
    scaling = scale_by_stddev if centered else scale_by_rms
    return chain(
        scaling(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )
