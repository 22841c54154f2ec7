"""Clipping the gradient's norm where it is an outlier among the norms so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, Positive, Size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import safe_sqrt
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._scaled_norm import clip_scalars, rescale_rule, scaled_norm
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates

_LARGEST = 2.0**60  # the square of a deviation must be in range


class ZClipState(NamedTuple):
    """Steps taken, and mean and variance of the norms after clipping."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mean: jax.Array
    variance: jax.Array


@transformation(reports=("norm", "z_score"), packable=True, sums=True)
def zclip(
    decay: Decay = 0.97, z_threshold: Positive = 2.5, warmup_steps: Size = 25, *, axis_name: AxisName = None
) -> Pair:
    """Shrinks a gradient whose norm is more than `z_threshold` deviations above its average.

        z = (norm(g) - mean) / sqrt(variance)
        norm_new = mean + z_threshold^2 / z * sqrt(variance) if z > z_threshold else norm(g)
        u = norm_new / norm(g) * g
        mean = decay * mean + (1 - decay) * norm_new
        variance = decay * variance + (1 - decay) * (norm_new - mean)^2

    During the warm-up nothing is clipped, and mean and variance are those of the norms so far. Clipped norms
    count in both, as in the authors' code, so one clipping favors the next: with a decay of 0.5, or a
    threshold of 1, nearly every gradient ends clipped to a mean that falls.

    Args:
      decay: of mean and variance, in [0, 1), best 0.9 or more; 0.97 in the paper.
      z_threshold: > 0, best 2 or more; 2.5 in the paper.
      warmup_steps: >= 1; 25 in the paper.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    In mean and variance norms beyond 2^60, or not finite, count as 2^60. Reports `norm` and `z_score`.
    Source: Kumar et al. 2025, arXiv:2504.02507.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.zclip(), gf.adamw(1e-3)))
    chain(zclip(), adamw(0.001))
    """
    check_axis_name("zclip", axis_name)

    def init(params: Params) -> OptState:
        dtype = jnp.zeros(()).dtype
        return ZClipState(zero_scalar(params), zero_scalar(params, dtype), zero_scalar(params, dtype))

    def update(
        updates: Updates, state: ZClipState, params: Params | None = None
    ) -> tuple[Updates, ZClipState]:
        size, power = scaled_norm(updates, sum_axes(axis_name, updates))
        dtype = state.mean.dtype
        norm = (size / power).astype(dtype)
        norm = jnp.where(norm < _LARGEST, norm, jnp.full((), _LARGEST, dtype))
        b, limit = jnp.asarray(decay, dtype), jnp.asarray(z_threshold, dtype)
        warming = state.count < warmup_steps
        deviation = safe_sqrt(state.variance)
        spread = deviation > 0
        z = jnp.where(spread, (norm - state.mean) / jnp.where(spread, deviation, 1), 0)
        outlier = ~warming & (z > limit)
        kept = jnp.where(outlier, state.mean + limit * limit / jnp.where(outlier, z, 1) * deviation, norm)
        count = increment(state.count)
        # Welford's form of the mean and the variance of all norms so far.
        t = count.astype(dtype)
        share = jnp.where(warming, 1 / t, 1 - b)
        mean = state.mean + share * (kept - state.mean)
        spreading = jnp.where(warming, (kept - state.mean) * (kept - mean), (kept - mean) ** 2)
        variance = state.variance + share * (spreading - state.variance)
        report("norm", norm)
        report("z_score", z)
        unclipped = jnp.asarray(jnp.inf, size.dtype)
        bound = jnp.where(outlier, kept.astype(size.dtype), unclipped)
        (u,) = leafwise(rescale_rule, (updates,), clip_scalars, size=size, power=power, limit=bound)
        return u, ZClipState(count, mean, variance)

    return init, update
