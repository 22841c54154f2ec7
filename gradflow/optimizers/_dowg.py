"""DoWG: DoG with gradients weighted by the distances at which they were taken."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._calls._reports import report
from gradflow._core._compose import chain, identity
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative, Rate
from gradflow._rules._leafwise import as_scalar, leafwise
from gradflow._rules._math import bounded_norm, safe_sqrt, saturated
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Weights
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import InitialPositive, scalar_dtype
from gradflow.optimizers._dog import scale_and_keep_start_rule
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class DoWGState(NamedTuple):
    """The first parameters, the weighted sum of squared norms, the greatest squared distance."""

    init_params: Weights
    weighted_sq_norm_grads: jax.Array
    estim_sq_dist: jax.Array


@transformation(reports=("distance", "step"), elementwise=True, sums=True)
def scale_by_dowg(init_estim_sq_dist: InitialPositive | None = None, eps: NonNegative = 1e-4) -> Pair:
    """Multiplies by the squared distance over the root of the sum of squared norms it weights.

        sq_dist = max(sq_dist, |p - p0|^2)
        total = total + sq_dist * |g|^2
        u = sq_dist / (sqrt(total) + eps) * g

    Args:
      init_estim_sq_dist: the first `sq_dist`, > 0; `eps` by default.
      eps: added to the root, >= 0.

    Needs `params`. Reports `distance` and `step`. Raises ValueError inside `shard_map`.
    Source: Khaled, Mishchenko, Jin 2023, arXiv:2305.16284.
    """

    if init_estim_sq_dist is None and isinstance(eps, int | float) and eps == 0:
        raise ValueError(
            "scale_by_dowg: argument 'init_estim_sq_dist' must be given where eps=0, or no step leaves the "
            "start; got None"
        )

    def init(params: Params) -> OptState:
        dtype = scalar_dtype(params)
        first = eps if init_estim_sq_dist is None else init_estim_sq_dist
        start = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        sq_dist = zero_scalar(params, dtype) + as_scalar(first, dtype)
        return DoWGState(start, zero_scalar(params, dtype), sq_dist)

    def update(updates: Updates, state: DoWGState, params: Params) -> tuple[Updates, DoWGState]:
        refuse_varying("a norm", updates, params)
        check_like("updates", updates, "state", state.init_params)
        dtype = state.estim_sq_dist.dtype
        gone = tree.norm(tree.sub(state.init_params, params), squared=True).astype(dtype)
        sq_dist = saturated(jnp.maximum(state.estim_sq_dist, gone))
        norm, shrink = (x.astype(dtype) for x in bounded_norm(*scaled_norm(updates)))
        total = saturated(state.weighted_sq_norm_grads + sq_dist * (norm * norm))
        step = shrink * sq_dist / (safe_sqrt(total) + as_scalar(eps, dtype))
        report("distance", lambda: jnp.sqrt(sq_dist))
        report("step", step)
        u, start = leafwise(scale_and_keep_start_rule, (updates, state.init_params), step=step)
        return u, DoWGState(start, total, sq_dist)

    return init, update


@transformation
def dowg(
    learning_rate: Rate = 1.0,
    init_estim_sq_dist: InitialPositive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: NonNegative | None = None,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """DoWG: an L2 penalty, then `scale_by_dowg`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule; the authors advise 1.
      weight_decay: weight of the penalty, >= 0, or None for no penalty.
      mask: where to decay; see `add_decayed_weights`.

    The others and the source as in `scale_by_dowg`.
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )
