"""AMSGrad: Adam whose second moment never falls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square, Sum
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate


class ScaleByAmsgradState(NamedTuple):
    """Steps taken, Adam's averages, and the maximum of the second one so far."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square
    nu_max: Sum


def amsgrad_scalars(
    count: jax.Array,
    b1: jax.Array,
    b2: jax.Array,
    correct1: jax.Array,
    correct2: jax.Array,
    **_: jax.Array,
) -> Scalars:
    """The decays' complements, and the selected bias corrections, or 1."""
    c1, c2 = 1 - b1, 1 - b2
    return {
        "c1": c1,
        "c2": c2,
        "debias1": jnp.where(correct1 > 0, 1 / one_minus_power(c1, count), jnp.ones_like(c1)),
        "debias2": jnp.where(correct2 > 0, 1 / one_minus_power(c2, count), jnp.ones_like(c2)),
    }


@traced_once
def amsgrad_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, nu_max: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Reddi et al. 2018, Algorithm 2, on the bias-corrected second moment."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    nu_max = jnp.maximum(nu_max, s.debias2 * nu)
    return s.debias1 * mu / (safe_sqrt(nu_max + s.eps_root) + s.eps), mu, nu, nu_max


@traced_once
def raw_amsgrad_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, nu_max: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """`amsgrad_rule` with the bias correction after the maximum."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    nu_max = jnp.maximum(nu_max, nu)
    return s.debias1 * mu / (safe_sqrt(s.debias2 * nu_max + s.eps_root) + s.eps), mu, nu, nu_max


@transformation(packable=True)
def scale_by_amsgrad(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of_raw: bool = False,
) -> Pair:
    """`scale_by_adam` with the maximum of the second moment so far in its place.

        nu_max = max(nu_max, nu / (1 - b2^t))
        u = (mu / (1 - b1^t)) / (sqrt(nu_max + eps_root) + eps)

    Args:
      bias_correction_mu: divides `mu` by `1 - b1^t`.
      bias_correction_nu: divides the second moment by `1 - b2^t`.
      max_of_raw: takes the maximum before the bias correction, as PyTorch and Keras do.

    The others as in `scale_by_adam`. Source: Reddi et al. 2018, arXiv:1904.09237.
    """
    rule = raw_amsgrad_rule if max_of_raw else amsgrad_rule

    def init(params: Params) -> OptState:
        return ScaleByAmsgradState(
            zero_scalar(params),
            first_moment(params, mu_dtype),
            second_moment(params),
            second_moment(params),
        )

    def update(
        updates: Updates, state: ScaleByAmsgradState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAmsgradState]:
        count = increment(state.count)
        u, mu, nu, nu_max = leafwise(
            rule, (updates, state.mu, state.nu, state.nu_max), amsgrad_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
            correct1=bias_correction_mu, correct2=bias_correction_nu,
        )  # fmt: skip
        return u, ScaleByAmsgradState(count, mu, nu, nu_max)

    return init, update


@transformation
def amsgrad(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of_raw: bool = False,
) -> GradientTransformation:
    """AMSGrad: `scale_by_amsgrad`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_amsgrad`.
    """
    return chain(
        scale_by_amsgrad(
            b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, max_of_raw=max_of_raw
        ),
        scale_by_learning_rate(learning_rate),
    )
