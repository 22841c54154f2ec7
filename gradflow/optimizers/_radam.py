"""RAdam: Adam that ignores its second moment until enough gradients are averaged."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState, nesterov_adam_scalars
from gradflow.transforms import scale_by_learning_rate


def average_length(c: jax.Array, count: jax.Array) -> jax.Array:
    """The effective length of a decaying average of `count` squares; `c` is one minus its decay.

    The paper's `rho_t = 2 / c - 1 - 2 * t * b2^t / (1 - b2^t)` is a small difference of large numbers,
    about `2 / c`. With `y = -log(b2)` it is
    `(2 / c - 1 - 2 / y) + 2 * t * (1 / (t * y) - 1 / (e^(t * y) - 1))`. Series replace brackets that cancel.
    """
    t = count.astype(c.dtype)
    # At c = 1 the logarithm is infinite and the length 1; all branches are kept finite.
    inside = jnp.where(c < 1, c, jnp.full_like(c, 0.5))
    z = -t * jnp.log1p(-inside)
    far = jnp.clip(z, 0.1, 50)
    series = 0.5 - z / 12 + z**3 / 720 - z**5 / 30240
    center = jnp.where(z < 0.1, series, jnp.where(z < 50, 1 / far - 1 / jnp.expm1(far), 1 / z))
    large = jnp.maximum(inside, 0.01)
    rest = jnp.where(
        inside < 0.01,
        inside / 6 + inside**2 / 12 + 19 * inside**3 / 360,
        2 / large - 1 + 2 / jnp.log1p(-large),
    )
    return jnp.where(c < 1, rest + 2 * t * center, jnp.ones_like(c))


def radam_scalars(
    count: jax.Array, b1: jax.Array, b2: jax.Array, threshold: jax.Array, **_: jax.Array
) -> Scalars:
    """Adam's scalars, whether to rectify, the factor, and the first bias correction divided by it."""
    adam = nesterov_adam_scalars(count, b1, b2)
    length = average_length(adam["c2"], count)
    longest = 2 / adam["c2"] - 1
    adaptive = (length >= threshold) & (length > 4)
    a, b = (jnp.where(adaptive, x, jnp.full_like(x, 5)) for x in (length, longest))
    rectifier = jnp.sqrt((a - 4) * (a - 2) * b / ((b - 4) * (b - 2) * a))
    return {**adam, "adaptive": adaptive, "rectifier": rectifier, "divisor": adam["bias1"] / rectifier}


def radam_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Liu et al. 2019, Algorithm 2."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    root = safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps
    return mu / jnp.where(~s.adaptive, s.bias1, s.divisor * root), mu, nu


def nesterov_radam_rule(g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """`radam_rule` with the momentum of the next step, as in `scale_by_adam`."""
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * bounded_square(g)
    root = safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps
    ahead = s.next_mu * mu + s.next_g * bounded(g)
    return ahead * jnp.where(s.adaptive, s.rectifier / root, jnp.ones_like(root)), mu, nu


@transformation(packable=True)
def scale_by_radam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Positive = 5.0,
    *,
    nesterov: bool = False,
) -> Pair:
    """`scale_by_adam` with the variance of its early steps rectified.

        rho_inf = 2 / (1 - b2) - 1,  rho = rho_inf - 2 * t * b2^t / (1 - b2^t)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        u = r * scale_by_adam(g)                    where rho >= threshold
        u = mu / (1 - b1^t)                         before

    Args:
      threshold: the length of the average from which the second moment is used, > 4; the authors' code
        has 5.
      nesterov: uses the momentum of the next step.

    The others as in `scale_by_adam`. Source: Liu et al. 2019, arXiv:1908.03265.
    """
    rule = nesterov_radam_rule if nesterov else radam_rule

    def init(params: Params) -> OptState:
        return ScaleByAdamState(zero_scalar(params), first_moment(params), second_moment(params))

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        count = increment(state.count)
        u, mu, nu = leafwise(
            rule, (updates, state.mu, state.nu), radam_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root, threshold=threshold,
        )  # fmt: skip
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def radam(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Positive = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """RAdam: `scale_by_radam`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_radam`.
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
