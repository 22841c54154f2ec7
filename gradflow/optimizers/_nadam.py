"""NAdam: Adam with Nesterov momentum, without and with Dozat's momentum schedule."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import scale_by_adam
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByNadamState(NamedTuple):
    """Steps taken, the averages of the gradient and its square, and the product of the momenta."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square
    mu_product: jax.Array


def _momentum(b1: jax.Array, decay: jax.Array, count: jax.Array) -> jax.Array:
    """mu_t = b1 * (1 - 0.5 * 0.96^(decay * t))."""
    return b1 * (1 - 0.5 * jnp.exp(decay * count.astype(b1.dtype) * jnp.log(jnp.full((), 0.96, b1.dtype))))


def nadam_scalars(
    count: jax.Array,
    b1: jax.Array,
    b2: jax.Array,
    momentum_decay: jax.Array,
    mu_product: jax.Array,
    **_: jax.Array,
) -> Scalars:
    """The weights of gradient and momentum at step `count`, from 1; `mu_product` is of earlier steps."""
    now, ahead = _momentum(b1, momentum_decay, count), _momentum(b1, momentum_decay, increment(count))
    product = mu_product * now
    c2 = 1 - b2
    return {
        "c1": 1 - b1,
        "c2": c2,
        "g_weight": (1 - now) / (1 - product),
        "mu_weight": ahead / (1 - product * ahead),
        "debias2": 1 / one_minus_power(c2, count),
    }


@traced_once
def nadam_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Dozat 2016, Algorithm 2."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    u = (s.g_weight * bounded(g) + s.mu_weight * mu) / (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)
    return u, mu, nu


@transformation(packable=True)
def scale_by_nadam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    momentum_decay: NonNegative = 4e-3,
) -> Pair:
    """Adam's scaling with Nesterov momentum whose strength grows with the step.

        mu_t = b1 * (1 - 0.5 * 0.96^(momentum_decay * t)),  product_t = mu_1 * ... * mu_t
        m = b1 * m + (1 - b1) * g,  nu = b2 * nu + (1 - b2) * |g|^2
        n = (1 - mu_t) * g / (1 - product_t) + mu_(t+1) * m / (1 - product_(t+1))
        u = n / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Args:
      momentum_decay: rate at which the momentum approaches b1, >= 0; PyTorch's 4e-3 by default.

    The others as in `scale_by_adam`. Source: Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """

    def init(params: Params) -> OptState:
        return ScaleByNadamState(
            zero_scalar(params),
            first_moment(params, mu_dtype),
            second_moment(params),
            zero_scalar(params, jnp.zeros(()).dtype, 1.0),
        )

    def update(
        updates: Updates, state: ScaleByNadamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByNadamState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            nadam_rule, (updates, state.mu, state.nu), nadam_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
            momentum_decay=momentum_decay, mu_product=state.mu_product,
        )  # fmt: skip
        dtype = state.mu_product.dtype
        now = _momentum(jnp.asarray(b1, dtype), jnp.asarray(momentum_decay, dtype), count)
        return u, ScaleByNadamState(count, mu, nu, state.mu_product * now)

    return init, update


def _scaling(
    owner: str, b1: Any, b2: Any, eps: Any, eps_root: Any, mu_dtype: Any, nesterov: bool, momentum_decay: Any
) -> GradientTransformation:
    if momentum_decay is None:
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    if not nesterov:
        given = describe(momentum_decay)
        raise ValueError(f"{owner}: argument 'momentum_decay' must be None with nesterov=False; got {given}")
    return scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, momentum_decay)


@transformation
def nadam(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    momentum_decay: NonNegative | None = None,
) -> GradientTransformation:
    """NAdam: `scale_by_adam(nesterov=True)`, or `scale_by_nadam`, then the learning rate.

        mu = b1 * mu + (1 - b1) * g,  nu = b2 * nu + (1 - b2) * |g|^2
        m = b1 * mu / (1 - b1^(t+1)) + (1 - b1) * g / (1 - b1^t)
        u = -learning_rate * m / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Args:
      learning_rate: a number >= 0 or a schedule.
      momentum_decay: a number selects `scale_by_nadam`, the form of PyTorch and AlgoPerf (4e-3 there).

    Raises ValueError for a momentum_decay with nesterov=False.
    The others as in `scale_by_adam`. Source: Dozat 2016.
    """
    return chain(
        _scaling("nadam", b1, b2, eps, eps_root, mu_dtype, nesterov, momentum_decay),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def nadamw(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 1e-4,
    mask: MaskOrFn | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: NonNegative | None = None,
) -> GradientTransformation:
    """NAdamW: `nadam` with the decoupled weight decay of `adamw`.

        u = nadam(g) - learning_rate * weight_decay * p

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `nadam` and `adamw`.
    """
    return chain(
        _scaling("nadamw", b1, b2, eps, eps_root, mu_dtype, nesterov, momentum_decay),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
