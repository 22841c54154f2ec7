"""AMSGrad: Adam whose second moment never falls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._base import GradientTransformation, OptState, Pair, Params, Updates, transformation
from gradflow._compose import chain
from gradflow._hyper import Decay, NonNegative, Positive, Rate
from gradflow._leafwise import Scalars, abs_sq, leafwise, one_minus_power, safe_sqrt
from gradflow._state import first_moment, increment, second_moment, zero_scalar
from gradflow.transforms import scale_by_learning_rate


class ScaleByAmsgradState(NamedTuple):
    """Steps taken, the averages of the gradient and its square, and the largest of the latter."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Updates
    nu: Updates
    nu_max: Updates


def amsgrad_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements and the bias corrections of step `count`, from 1."""
    c1, c2 = 1 - b1, 1 - b2
    bias1, bias2 = one_minus_power(c1, count), one_minus_power(c2, count)
    return {"c1": c1, "c2": c2, "debias1": 1 / bias1, "debias2": 1 / bias2, "one": jnp.ones_like(c1)}


def _amsgrad(
    g: jax.Array, mu: jax.Array, nu: jax.Array, top: jax.Array, s: Any, debias1: Any, before: Any, after: Any
) -> tuple[jax.Array, ...]:
    mu = s.b1 * mu + s.c1 * g
    nu = s.b2 * nu + s.c2 * abs_sq(g)
    top = jnp.maximum(top, before * nu)
    return debias1 * mu / (safe_sqrt(after * top + s.eps_root) + s.eps), mu, nu, top


def corrected_both(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """Reddi et al. 2018, Algorithm 2, the maximum over corrected moments."""
    return _amsgrad(g, mu, nu, top, s, s.debias1, s.debias2, s.one)


def corrected_raw(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """The maximum over raw moments, corrected afterwards."""
    return _amsgrad(g, mu, nu, top, s, s.debias1, s.one, s.debias2)


def corrected_mu(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """The first moment corrected alone."""
    return _amsgrad(g, mu, nu, top, s, s.debias1, s.one, s.one)


def corrected_nu(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """The second moment corrected alone."""
    return _amsgrad(g, mu, nu, top, s, s.one, s.debias2, s.one)


def corrected_nu_raw(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """The second moment corrected alone, after its maximum."""
    return _amsgrad(g, mu, nu, top, s, s.one, s.one, s.debias2)


def uncorrected(g: Any, mu: Any, nu: Any, top: Any, s: Any) -> tuple[jax.Array, ...]:
    """Neither moment corrected, as in the paper."""
    return _amsgrad(g, mu, nu, top, s, s.one, s.one, s.one)


@transformation
def scale_by_amsgrad(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of_raw: bool = False,
) -> Pair:
    """Adam's scaling, divided by the largest second moment so far.

        mu = b1 * mu + (1 - b1) * g,  nu = b2 * nu + (1 - b2) * |g|^2
        nu_max = max(nu_max, nu / (1 - b2^t))
        u = mu / (1 - b1^t) / (sqrt(nu_max + eps_root) + eps)

    Args:
      bias_correction_mu: False leaves the division by `1 - b1^t` out.
      bias_correction_nu: False leaves the division by `1 - b2^t` out.
      max_of_raw: takes the maximum of nu itself and corrects it afterwards, as PyTorch and Keras do.

    The others as in `scale_by_adam`. Source: Reddi, Kale & Kumar 2018, arXiv:1904.09237.
    """
    rule = {
        (True, True): corrected_raw if max_of_raw else corrected_both,
        (True, False): corrected_mu,
        (False, True): corrected_nu_raw if max_of_raw else corrected_nu,
        (False, False): uncorrected,
    }[bias_correction_mu, bias_correction_nu]

    def init(params: Params) -> OptState:
        return ScaleByAmsgradState(
            zero_scalar(params), first_moment(params, mu_dtype), second_moment(params), second_moment(params)
        )

    def update(
        updates: Updates, state: ScaleByAmsgradState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAmsgradState]:
        count = increment(state.count)
        u, mu, nu, nu_max = leafwise(
            rule, (updates, state.mu, state.nu, state.nu_max), amsgrad_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByAmsgradState(count, mu, nu, nu_max)

    return init, update


@transformation
def amsgrad(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_of_raw: bool = False,
) -> GradientTransformation:
    """AMSGrad: `scale_by_amsgrad`, then the learning rate. Arguments and source as there."""
    return chain(
        scale_by_amsgrad(
            b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, max_of_raw=max_of_raw
        ),
        scale_by_learning_rate(learning_rate),
    )
