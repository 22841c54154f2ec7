"""Adam and AdamW, both also with Nesterov momentum."""

from typing import Any, NamedTuple

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import abs_sq, bounded_if_finite, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._rules._traced_once import traced_once
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByAdamState(NamedTuple):
    """Steps taken, and the averages of the gradient and of its square."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square


def adam_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements and the bias corrections of step `count`, which begins at 1."""
    c1, c2 = 1 - b1, 1 - b2
    bias1 = one_minus_power(c1, count)
    # Products of scalars that a rule made would be kernels of their own on a GPU.
    return {
        "c1": c1,
        "c2": c2,
        "bias1": bias1,
        "debias1": 1 / bias1,
        "debias2": 1 / one_minus_power(c2, count),
    }


def nesterov_adam_scalars(count: jax.Array, b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """Those of Adam, and the factors of its momentum one step ahead."""
    numbers = adam_scalars(count, b1, b2)
    return {
        **numbers,
        "next_mu": b1 * (1 / one_minus_power(numbers["c1"], increment(count))),
        "next_g": numbers["c1"] * numbers["debias1"],
    }


@traced_once
def adam_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Kingma & Ba 2014, Algorithm 1."""
    # XLA's CPU compiles equal kernels of one shape once. They are equal if their operands have one order: no
    # array may stand between two scalars. 16 leaves of 7 shapes have 24 kernels, not 31 (`kinds` in
    # `python -m benchmarks`).
    g = bounded_if_finite(g)
    mu = s.c1 * g + s.b1 * mu
    nu = s.c2 * abs_sq(g) + s.b2 * nu
    return mu / (s.bias1 * (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)), mu, nu


@traced_once
def nesterov_adam_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Dozat 2016: Adam with the momentum of the next step."""
    g = bounded_if_finite(g)
    mu = s.c1 * g + s.b1 * mu
    nu = s.c2 * abs_sq(g) + s.b2 * nu
    ahead = s.next_mu * mu + s.next_g * g
    return ahead / (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps), mu, nu


@transformation(packable=True)
def scale_by_adam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Pair:
    """Divides the averaged gradient by the root of its averaged square (Kingma & Ba 2014).

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * |g|^2
        u = (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t) + eps_root) + eps)

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added outside the root, >= 0.
      eps_root: added inside the root, >= 0.
      mu_dtype: dtype of the first moment; the parameters' by default. The second moment is held in
        float32 at least.
      nesterov: the numerator is `b1 * mu / (1 - b1^(t+1)) + (1 - b1) * g / (1 - b1^t)`.

    Source: Kingma & Ba 2014, arXiv:1412.6980; Dozat 2016 for `nesterov`.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_adam(b1=0.95), gf.scale_by_learning_rate(1e-3)))
    chain(scale_by_adam(b1=0.95), scale_by_learning_rate(0.001))
    """
    rule = nesterov_adam_rule if nesterov else adam_rule
    scalars = nesterov_adam_scalars if nesterov else adam_scalars

    def init(params: Params) -> OptState:
        return ScaleByAdamState(zero_scalar(params), first_moment(params, mu_dtype), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            rule, (updates, state.mu, state.nu), scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root,
        )  # fmt: skip
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def adam(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam: `scale_by_adam`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_adam`.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamw(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 1e-4,
    mask: MaskOrFn | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdamW: Adam whose weight decay does not pass through the moments.

        u = -learning_rate * (scale_by_adam(g) + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: a number >= 0 or a schedule. PyTorch's default is 1e-2.
      mask: where to decay: a tree of booleans or a prefix of one, or a function from params to it.

    The others as in `scale_by_adam`. Source: Loshchilov & Hutter 2017, arXiv:1711.05101.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
