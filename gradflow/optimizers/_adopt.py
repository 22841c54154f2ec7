"""ADOPT: Adam that divides by the second moment of earlier gradients, then averages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._kernel_hints._order import written_after
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState
from gradflow.transforms import scale_by_learning_rate


def adopt_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """Weights of the old and new terms; the first step, at `count` 0, only sets the second moment."""
    first = count == 0
    zero, one = jnp.zeros_like(b1), jnp.ones_like(b1)
    return {
        "keep1": jnp.where(first, one, b1),
        "gain1": jnp.where(first, zero, 1 - b1),
        "keep2": jnp.where(first, zero, b2),
        "gain2": jnp.where(first, one, 1 - b2),
    }


def clipped_adopt_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """`adopt_scalars` with the paper's bound."""
    return {**adopt_scalars(count, b1, b2), "bound": count.astype(b1.dtype) ** 0.25}


def adopt_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Taniguchi et al. 2024, Algorithm 2."""
    scaled = jnp.clip(bounded(g) / jnp.maximum(safe_sqrt(nu), s.eps), -s.bound, s.bound)
    mu = s.gain1 * scaled + s.keep1 * mu
    return mu, mu, written_after(s.keep2 * nu + s.gain2 * bounded_square(g), mu)


def nesterov_adopt_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """`adopt_rule` with the momentum of the next step, if its gradient were the same."""
    scaled = jnp.clip(bounded(g) / jnp.maximum(safe_sqrt(nu), s.eps), -s.bound, s.bound)
    mu = s.gain1 * scaled + s.keep1 * mu
    nu = written_after(s.keep2 * nu + s.gain2 * bounded_square(g), mu)
    return s.keep1 * mu + s.gain1 * scaled, mu, nu


@transformation(leaves="real", packable=True)
def scale_by_adopt(
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], Any] | None = None,
) -> Pair:
    """Averages gradients, each divided by the root of the second moment of earlier ones.

        mu = b1 * mu + (1 - b1) * clip(g / max(sqrt(nu), eps), -bound, bound)
        u = mu
        nu = b2 * nu + (1 - b2) * g^2

    The first step only sets `nu = g^2`. Unlike Adam, the rule converges for every b2.

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: least divisor, >= 0; the paper's 1e-6.
      mu_dtype: dtype of the momentum; the parameters' by default.
      nesterov: uses the momentum of the next step.
      use_clipping: False has no bound.
      clip_value_fn: function from the count of steps taken to the bound; None is the paper's `count ** 0.25`.

    Source: Taniguchi et al. 2024, arXiv:2411.02853.
    """
    rule = nesterov_adopt_rule if nesterov else adopt_rule

    def init(params: Params) -> OptState:
        return ScaleByAdamState(zero_scalar(params), first_moment(params, mu_dtype), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        trees, count = (updates, state.mu, state.nu), state.count
        if use_clipping and clip_value_fn is None:
            u, mu, nu = leafwise(rule, trees, clipped_adopt_scalars, count=count, b1=b1, b2=b2, eps=eps)
        else:
            # Without a bound the largest finite number is used, so that no quotient is infinite.
            bound = clip_value_fn(count) if use_clipping and clip_value_fn else 3e38
            u, mu, nu = leafwise(rule, trees, adopt_scalars, count=count, b1=b1, b2=b2, eps=eps, bound=bound)
        return u, ScaleByAdamState(increment(count), mu, nu)

    return init, update


@transformation
def adopt(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], Any] | None = None,
) -> GradientTransformation:
    """ADOPT: `scale_by_adopt`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_adopt`.
    """
    return chain(
        scale_by_adopt(
            b1, b2, eps, mu_dtype,
            nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn,
        ),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip
