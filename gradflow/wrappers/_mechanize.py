"""Mechanic: tunes a factor on the steps of any optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Iterations, NonNegative, Positive
from gradflow._rules._leafwise import as_scalar, leafwise
from gradflow._rules._math import bounded, safe_sqrt, saturated
from gradflow._rules._mesh_axes import global_norm, refuse_varying
from gradflow._rules._roles import Weights
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._leaves import accumulator


class MechanicState(NamedTuple):
    """The inner state, steps taken, four numbers for each decay, and the first parameters.

    The four are the reward, the largest gain, the sum of squared gains, and the factor.
    """

    base_optimizer_state: OptState
    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    r: jax.Array
    m: jax.Array
    v: jax.Array
    s: jax.Array
    x0: Weights


@jax.jit
def mechanic_scalars(
    gain: jax.Array, state: tuple[jax.Array, ...], s_init: jax.Array, eps: jax.Array
) -> tuple[jax.Array, ...]:
    """Cutkosky et al. 2023, Algorithm 1, the tuner: the next r, m, v and s."""
    r, m, v, s = state
    betas = jnp.asarray(1 - 0.1 ** np.arange(1, s.size + 1), s.dtype)
    r = betas * r + jnp.clip(gain, -m, m) * s
    m = jnp.maximum(betas * m, jnp.abs(gain) + eps)
    v = betas * betas * saturated(v) + gain * gain
    wealth = s_init / s.size * m + jnp.maximum(r, 0)
    # Without any gain m is eps, so the limit of the quotient for eps = 0 is the first scale.
    root = safe_sqrt(v) + eps
    return r, m, v, jnp.where(root > 0, wealth / jnp.where(root > 0, root, 1), s_init / s.size)


def mechanic_rule(u: jax.Array, x0: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """`x0 + factor * (delta + u) - p`, where `delta` is `(p - x0) / old`."""
    x0 = jnp.where(s.first > 0, p, x0)
    return (s.factor / s.old - 1) * (p - x0) + s.factor * u, x0


@transformation(reports=("factor",), elementwise=True)
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: NonNegative = 1e-2,
    eps: NonNegative = 1e-8,
    s_init: Positive = 1e-6,
    num_betas: Iterations = 6,
) -> Pair:
    """Tunes the scale of the steps of an optimizer whose learning rate is 1, or a schedule with peak 1.

        delta = (p - x0) / (sum(s) + eps)          the sum of the optimizer's steps
        h = -<g + weight_decay * sum(s) * |g| / (|p| + eps) * p, delta>
        r = b * r + clip(h, -m, m) * s,  m = max(b * m, |h| + eps),  v = b^2 * v + h^2
        s = (s_init / num_betas * m + max(0, r)) / (sqrt(v) + eps)
        p = x0 + sum(s) * (delta + u)              for the optimizer's update u

    Args:
      base_optimizer: any optimizer that does not normalize its steps by the parameters' norm.
      weight_decay: the tuner's, >= 0, in addition to the optimizer's own.
      eps: >= 0.
      s_init: the first scale, > 0.
      num_betas: how many decays b = 0.9, 0.99, ... have their own r, m, v and s.

    `x0` are the parameters of the first step. `delta` is computed from the parameters, so these need float32
    at least to hold steps of size `s_init`. Clipping h is the authors' addition to the paper. Extra
    arguments go to `base_optimizer`. Needs `params`. Reports `factor`. Raises ValueError inside `shard_map`.
    Source: Cutkosky, Defazio, Mehta 2023, arXiv:2306.00144.

    >>> import gradflow as gf
    >>> print(gf.mechanize(gf.adamw(1.0)))
    mechanize(adamw(1.0))
    """

    def init(params: Params) -> OptState:
        base_state = base_optimizer.init(params)
        dtype = accumulator(jax.tree.leaves(params), real=True)
        zero = zero_scalar(params, dtype)
        r, m, v = (jnp.zeros(num_betas, dtype) + zero for _ in range(3))
        s = jnp.full(num_betas, as_scalar(s_init, dtype)) + zero
        x0 = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        return MechanicState(base_state, zero_scalar(params), r, m, v, s, x0)

    def update(
        updates: Updates, state: MechanicState, params: Params, **extra: Any
    ) -> tuple[Updates, MechanicState]:
        refuse_varying("a sum", updates, params)
        dtype = state.s.dtype
        steps, base_state = base_optimizer.update(updates, state.base_optimizer_state, params, **extra)
        first, small = state.count == 0, as_scalar(eps, dtype)
        scale = jnp.sum(state.s)
        moved = tree.sub(params, state.x0)
        pull = as_scalar(weight_decay, dtype) * scale * global_norm(updates, (), beside=True).astype(dtype)
        size = global_norm(params, (), beside=True).astype(dtype) + small
        pull = pull / jnp.where(size > 0, size, 1)
        along = tree.vdot(updates, moved).real.astype(dtype)
        gain = -(along + pull * tree.vdot(params, moved).real.astype(dtype)) / (scale + small)
        # A gain that is not finite carries no information, and would stay in the sums forever.
        gain = bounded(jnp.where(first | ~jnp.isfinite(gain), 0, gain))
        tuner = (state.r, state.m, state.v, state.s)
        r, m, v, s = mechanic_scalars(gain, tuner, as_scalar(s_init, dtype), small)
        factor = jnp.sum(s)
        report("factor", factor)
        u, x0 = leafwise(
            mechanic_rule, (steps, state.x0, params),
            first=first.astype(np.int32), factor=factor, old=scale + small,
        )  # fmt: skip
        return u, MechanicState(base_state, increment(state.count), r, m, v, s, x0)

    return init, update
