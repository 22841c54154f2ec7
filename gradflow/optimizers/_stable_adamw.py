"""StableAdamW: AdamW that shortens the step where its second moment lags behind the gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import bounded, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._selection._masks import resolve_mask
from gradflow._selection._partial_trees import zero_elsewhere
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState, adam_rule, adam_scalars
from gradflow.transforms import scale_by_learning_rate


def stable_adam_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, decayed: jax.Array, s: Any
) -> tuple[jax.Array, ...]:
    """Wortsman et al. 2023, Algorithm 2."""
    u, mu, nu = adam_rule(g, mu, nu, s)
    ratio = jnp.abs(bounded(g)) / jnp.maximum(safe_sqrt(s.debias2 * nu), s.eps)
    rms = safe_sqrt(jnp.sum(ratio * ratio) / max(g.size, 1))
    return (u + s.weight_decay * decayed) / jnp.maximum(rms, 1), mu, nu


@transformation
def scale_by_stable_adam(
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    mu_dtype: Any = None,
) -> Pair:
    """Adam's direction and a weight decay, both divided by how far the gradient exceeds its second moment.

        v = nu / (1 - b2^t)
        rms = sqrt(mean(|g|^2 / max(v, eps^2)))                  of each leaf
        u = (scale_by_adam(g) + weight_decay * p) / max(1, rms)

    Args:
      weight_decay: >= 0. It is scaled with the step, as in the paper.
      mask: tree of booleans, or a function from the parameters to one: where to decay.

    The others as in `scale_by_adam`. Needs `params`. Raises ValueError inside `shard_map` on updates that
    differ between devices. Source: Wortsman et al. 2023, arXiv:2304.13013.
    """

    def init(params: Params) -> OptState:
        if mask is not None:
            resolve_mask(mask, params)
        return ScaleByAdamState(zero_scalar(params), first_moment(params, mu_dtype), second_moment(params))

    def update(updates: Updates, state: ScaleByAdamState, params: Params) -> tuple[Updates, ScaleByAdamState]:
        refuse_varying("the mean of a leaf", updates)
        decayed = params
        if mask is not None:
            decayed = zero_elsewhere(resolve_mask(mask, params), params)
        count = increment(state.count)
        u, mu, nu = leafwise(
            stable_adam_rule, (updates, state.mu, state.nu, decayed), adam_scalars,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=0.0, weight_decay=weight_decay,
        )  # fmt: skip
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def stable_adamw(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-2,
    mask: MaskOrFn | None = None,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """StableAdamW: `scale_by_stable_adam`, then the learning rate. It needs no gradient clipping.

    Arguments as in `scale_by_stable_adam`. Source: Wortsman et al. 2023, arXiv:2304.13013.
    """
    return chain(
        scale_by_stable_adam(b1, b2, eps, weight_decay, mask, mu_dtype), scale_by_learning_rate(learning_rate)
    )
