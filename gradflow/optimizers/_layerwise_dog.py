"""L-DoG: DoG per layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._decorators import transformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Finite, NonNegative
from gradflow._rules._leafwise import as_scalar, leafwise, specialize
from gradflow._rules._math import bounded_norm, saturated
from gradflow._rules._mesh_axes import AxisName, check_axis_name, global_norm, sum_axes
from gradflow._rules._roles import Weights
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import at_least_float32, moment_dtype, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import InitialPositive


class ScaleByDistanceOverGradientsState(NamedTuple):
    """For each leaf the greatest distance from its start, the sum of squared norms, and the start."""

    max_dist: Updates
    grad_sum_of_squares: Updates
    init_params: Weights


def layerwise_rule(
    g: jax.Array, dist: jax.Array, total: jax.Array, p0: jax.Array, p: jax.Array, s: Any, *, axes: Any
) -> tuple[jax.Array, ...]:
    """Ivgi et al. 2023, section 4.3: DoG per layer."""
    dist = jnp.maximum(dist, global_norm(p - p0, axes))
    norm, shrink = bounded_norm(*scaled_norm(g, axes))
    total = saturated(total) + norm * norm
    return s.global_scale * shrink * (dist / jnp.sqrt(total + s.eps)) * g, dist, total, jnp.copy(p0)


@transformation
def scale_by_distance_over_gradients(
    reps_rel: InitialPositive = 1e-6,
    eps: NonNegative = 1e-8,
    param_dtype: Any = jnp.float32,
    global_scale: Finite = 1.0,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """L-DoG: `scale_by_dog` with the heuristic first step, and norms per leaf.

    Args:
      reps_rel: the first distance is `reps_rel * (1 + |p0|)`; > 0.
      eps: added to the sum of squared norms, >= 0.
      param_dtype: dtype of the first parameters in the state.
      global_scale: multiplies all steps; 1, or -1 to descend without a learning rate.
      axis_name: for a call inside `shard_map`; see `scale_by_trust_ratio`. So is `init`.

    Needs `params`. Source: Ivgi, Hinder, Carmon 2023, arXiv:2302.12022.
    """
    check_axis_name("scale_by_distance_over_gradients", axis_name)

    def init(params: Params) -> OptState:
        axes = sum_axes(axis_name, params)

        def first(p: jax.Array) -> jax.Array:
            dtype = at_least_float32(real_dtype(p.dtype))
            norm = global_norm(p, axes).astype(dtype)
            return zero_scalar(p, dtype) + as_scalar(reps_rel, dtype) * (1 + norm)

        def start(p: jax.Array) -> jax.Array:
            return jnp.array(p, moment_dtype(p.dtype, param_dtype), copy=True)

        total = jax.tree.map(lambda p: zero_scalar(p, at_least_float32(real_dtype(p.dtype))), params)
        return ScaleByDistanceOverGradientsState(
            jax.tree.map(first, params), total, jax.tree.map(start, params)
        )

    def update(
        updates: Updates, state: ScaleByDistanceOverGradientsState, params: Params
    ) -> tuple[Updates, ScaleByDistanceOverGradientsState]:
        check_like("updates", updates, "state", state.init_params)
        u, dist, total, start = leafwise(
            specialize(layerwise_rule, axes=sum_axes(axis_name, updates, params)),
            (updates, state.max_dist, state.grad_sum_of_squares, state.init_params, params),
            shapes=False, eps=eps, global_scale=global_scale,
        )  # fmt: skip
        return u, ScaleByDistanceOverGradientsState(dist, total, start)

    return init, update
