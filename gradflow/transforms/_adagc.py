"""Clipping each leaf by the history of its own norm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Decay, NonNegative, Size
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._scaled_norm import clip_scalars, scaled_norm
from gradflow._rules._state import increment, zero_scalar
from gradflow._rules._unit_norm import unit_norm
from gradflow._types import OptState, Pair, Params, Updates

_LARGEST = 2.0**60  # at such an outlier the other leaves' clipped norms are nothing


class AdaGCState(NamedTuple):
    """Steps taken, and the averaged norm of each leaf after clipping."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    norms: Updates


def adagc_scalars(
    count: jax.Array,
    warmup_steps: jax.Array,
    size: jax.Array,
    power: jax.Array,
    absolute: jax.Array,
    **_: jax.Array,
) -> Scalars:
    """Whether this is a step of the warm-up, the factor of a clip by the global norm, and if norms count."""
    whole = clip_scalars(size, power, absolute)["factor"]
    return {"warming": count < warmup_steps, "whole": whole, "counts": size < _LARGEST * power}


def adagc_rule(g: jax.Array, average: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Wang et al. 2025, Algorithm 1."""
    size, power = unit_norm(g)
    size, power = size.reshape(()), power.reshape(())
    warming = s.warming | (average == 0)
    limit = s.relative * average
    clipped = size > limit * power
    own = jnp.where(clipped, limit / jnp.where(clipped, size, 1), 1 / power)
    factor, scale = jnp.where(warming, s.whole, own), jnp.where(warming, s.power, power)
    norm = factor * ((scale / power) * size)
    smaller = jnp.where((average == 0) | (norm == 0), jnp.maximum(average, norm), jnp.minimum(average, norm))
    new = jnp.where(s.counts, smaller, average)
    return factor * (scale * g), jnp.where(warming, new, s.decay * average + (1 - s.decay) * norm)


@transformation
def adagc(
    relative: NonNegative = 1.05, decay: Decay = 0.98, absolute: NonNegative = 1.0, warmup_steps: Size = 100
) -> Pair:
    """Limits each leaf's norm to `relative` times the average of its own norms.

        in the first warmup_steps:  u = min(1, absolute / norm of all leaves) * g
                                    average = min(average, norm(u))
        after them:                 u = min(1, relative * average / norm(g)) * g
                                    average = decay * average + (1 - decay) * norm(u)

    A norm of zero does not count in the warm-up, which lasts until a leaf has another: a leaf that begins
    without a gradient would stay where it is. Steps whose global norm is 2^60 or more do not count either.

    Args:
      relative: >= 0; 1.05 in the paper.
      decay: of the averaged norm, in [0, 1); 0.98 in the paper.
      absolute: largest global norm during the warm-up, >= 0; 1 in the paper.
      warmup_steps: >= 1; 100 in the paper.

    Raises ValueError inside `shard_map` on updates that differ between devices.
    Source: Wang et al. 2025, arXiv:2502.11034.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adagc(), gf.adamw(0.001)))
    chain(adagc(), adamw(0.001))
    """

    def init(params: Params) -> OptState:
        return AdaGCState(
            zero_scalar(params), jax.tree.map(lambda p: zero_scalar(p, jnp.zeros(()).dtype), params)
        )

    def update(
        updates: Updates, state: AdaGCState, params: Params | None = None
    ) -> tuple[Updates, AdaGCState]:
        refuse_varying("the norm of a leaf", updates)
        size, power = scaled_norm(updates)
        u, norms = leafwise(
            adagc_rule, (updates, state.norms), adagc_scalars, shapes=False, count=state.count,
            warmup_steps=jnp.asarray(warmup_steps, state.count.dtype), size=size, power=power,
            relative=relative, decay=decay, absolute=absolute,
        )  # fmt: skip
        return u, AdaGCState(increment(state.count), norms)

    return init, update
