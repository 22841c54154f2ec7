"""NovoGrad: momentum on gradients that are divided by the norm of their layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise, specialize
from gradflow._rules._math import bounded_norm, safe_sqrt
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Mean, Square
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate


class ScaleByNovogradState(NamedTuple):
    """Steps taken, the momentum, and one average squared norm for each leaf."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square


def novograd_scalars(count: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The weights of the old average and of the new square, which is 1 at the first step."""
    first = count == 1
    return {
        "keep": jnp.where(first, jnp.zeros_like(b2), b2),
        "gain": jnp.where(first, jnp.ones_like(b2), 1 - b2),
    }


def novograd_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, p: jax.Array, s: Any, *, axes: tuple[str, ...]
) -> tuple[jax.Array, ...]:
    """Ginsburg et al. 2019, Algorithm 1."""
    norm, shrink = bounded_norm(*scaled_norm(g, axes))
    nu = s.keep * nu + s.gain * (norm * norm)
    mu = s.b1 * mu + (shrink * g / (safe_sqrt(nu + s.eps_root) + s.eps) + s.weight_decay * p)
    return mu, mu, nu


@transformation(sums=True)
def scale_by_novograd(
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mu_dtype: Any = None,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Averages gradients, each divided by the norm of its layer; every leaf is a layer.

        nu = b2 * nu + (1 - b2) * norm(g)^2         nu = norm(g)^2 at the first step
        mu = b1 * mu + g / (sqrt(nu + eps_root) + eps) + weight_decay * p
        u = mu

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the squared norm, in [0, 1); the paper's 0.25.
      eps: added outside the root, >= 0.
      eps_root: added inside the root, >= 0.
      weight_decay: >= 0, inside the momentum.
      mu_dtype: dtype of the momentum; the parameters' by default.
      axis_name: for a call inside `shard_map`; see `scale_by_trust_ratio`.

    Needs `params`. Source: Ginsburg et al. 2019, arXiv:1905.11286.
    """
    check_axis_name("scale_by_novograd", axis_name)

    def init(params: Params) -> OptState:
        nu = jax.tree.map(lambda p: zero_scalar(p, at_least_float32(real_dtype(p.dtype))), params)
        return ScaleByNovogradState(zero_scalar(params), first_moment(params, mu_dtype), nu)

    def update(
        updates: Updates, state: ScaleByNovogradState, params: Params
    ) -> tuple[Updates, ScaleByNovogradState]:
        check_like("updates", updates, "state", state.mu)
        count = increment(state.count)
        rule = specialize(novograd_rule, axes=sum_axes(axis_name, updates))
        u, mu, nu = leafwise(
            rule, (updates, state.mu, state.nu, params), novograd_scalars, shapes=False,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root, weight_decay=weight_decay,
        )  # fmt: skip
        return u, ScaleByNovogradState(count, mu, nu)

    return init, update


@transformation
def novograd(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    *,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """NovoGrad: `scale_by_novograd`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.

    The others and the source as in `scale_by_novograd`.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
    )
