"""Momentum-SAM: sharpness-aware minimization that climbs against the momentum, with one gradient per step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._coding._leaves import decoded
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._roles import Mean
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._leaves import accumulator
from gradflow.wrappers._eval_params import averages


class MSAMState(NamedTuple):
    """Steps taken, the averaged gradient, how far the parameters lie along it, and the inner state.

    The parameters are `p - (offset * power) * momentum`.
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    momentum: Mean
    offset: jax.Array
    power: jax.Array
    inner_state: OptState


def back_rule(y: jax.Array, momentum: jax.Array, s: Any) -> jax.Array:
    """The parameters themselves, from those where the gradient is taken."""
    return y + s.offset * (s.power * momentum)


def average_scalars(decay: jax.Array) -> Scalars:
    """The weight of the newest gradient."""
    return {"c": 1 - decay}


def average_rule(g: jax.Array, momentum: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """m = decay * m + (1 - decay) * g."""
    return g, s.decay * momentum + s.c * g


def climb_rule(u: jax.Array, before: jax.Array, momentum: jax.Array, s: Any) -> jax.Array:
    """Becker et al. 2024, Algorithm 1: back to p, its step, and from there against the momentum.

    The way back is computed here, since p in bfloat16 would add a rounding of its own to each step.
    """
    return s.offset_before * (s.power_before * before) + u - s.offset * (s.power * momentum)


@transformation(packable=True)
def msam(
    inner: GradientTransformation, rho: NonNegative = 0.3, decay: Decay = 0.9, *, axis_name: AxisName = None
) -> Pair:
    """Takes gradients at a point `y` that lies against the momentum, where the loss is higher.

        m = decay * m + (1 - decay) * g,  g the gradient at y
        p = p + inner(g)
        y = p - rho * m / |m|

    The parameters are y; `eval_params` returns p. Like SAM it seeks flat minima, with one gradient per step.

    Args:
      inner: the whole optimizer: a stage after this one would change the step. It receives p as parameters.
      rho: how far, >= 0. The authors' 0.3 for SGD by default; they take 3 for AdamW on images.
      decay: of the momentum, in [0, 1): that of `inner`.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    The average is held in float32 at least. Source: Becker et al. 2024, arXiv:2401.12033.

    >>> import gradflow as gf
    >>> print(gf.msam(gf.sgd(0.1, momentum=0.9)))
    msam(sgd(0.1, momentum=0.9))
    """
    check_axis_name("msam", axis_name)

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # refuses leaves that are not numbers
        momentum = jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        dtype = accumulator(jax.tree.leaves(params), real=True)
        offset, power = zero_scalar(params, dtype), zero_scalar(params, dtype, 1.0)
        return MSAMState(zero_scalar(params), momentum, offset, power, inner_state)

    def update(updates: Updates, state: MSAMState, params: Params, **extra: Any) -> tuple[Updates, MSAMState]:
        axes = sum_axes(axis_name, updates, params)
        (p,) = leafwise(back_rule, (params, state.momentum), offset=state.offset, power=state.power)
        u, inner_state = inner.update(updates, state.inner_state, p, **extra)
        _, momentum = leafwise(average_rule, (updates, state.momentum), average_scalars, decay=decay)
        size, power = scaled_norm(decoded(momentum), axes)
        offset = jnp.where(size > 0, jnp.asarray(rho, size.dtype) / jnp.where(size > 0, size, 1), 0)
        (u,) = leafwise(
            climb_rule, (u, state.momentum, momentum), offset=offset, power=power,
            offset_before=state.offset, power_before=state.power,
        )  # fmt: skip
        offset, power = offset.astype(state.offset.dtype), power.astype(state.power.dtype)
        return u, MSAMState(increment(state.count), momentum, offset, power, inner_state)

    return init, update


def _read(params: list[Any], momentum: list[Any], state: MSAMState) -> list[Any]:
    (found,) = leafwise(back_rule, (params, momentum), offset=state.offset, power=state.power)
    return list(found)


averages(MSAMState, "momentum", _read)
