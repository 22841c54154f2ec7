"""Clipping by the ratio of gradient norm to parameter norm, per unit."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._checked import ARRAY, AXES, FLOATS, Number, checked
from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._dtypes import compute_dtype, real_dtype
from gradflow._expressions._arguments import Limit, NonNegative
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, input_norms
from gradflow._types import EmptyState, Pair, Params, Updates


@checked(x=ARRAY, axis=AXES | None)
def unitwise_norm(x: Any, axis: Axis = None) -> jax.Array:
    """The 2-norm of each unit of a layer, in the shape of `x`.

    Args:
      x: an array.
      axis: the axes of a unit. By default those of its inputs: all axes of vectors, the first one of
        matrices and of 3-D arrays (heads), all but the last of convolutions.

    Intermediate values neither overflow nor underflow. The derivative at 0 is 0.

    >>> import gradflow as gf
    >>> import numpy as np
    >>> gf.unitwise_norm(np.ones((4, 2), np.float32)).tolist()
    [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    """
    x = _widened("unitwise_norm", "x", x)
    ((size, power),) = input_norms(x, axis=axis)
    return jnp.broadcast_to(size / power, x.shape)


@checked(g_norm=ARRAY, max_norm=ARRAY, grad=ARRAY, div_eps=Number(0))
def unitwise_clip(g_norm: Any, max_norm: Any, grad: Any, div_eps: Any = 1e-6) -> jax.Array:
    """Multiplies `grad` by `max_norm / max(g_norm, div_eps)` where `g_norm` is larger than `max_norm`.

    Args:
      g_norm: norm of each element's unit, in a shape that broadcasts to that of `grad`.
      max_norm: the largest norm, in such a shape as well.
      grad: an array.
      div_eps: the smallest divisor, > 0.

    >>> import gradflow as gf
    >>> float(gf.unitwise_clip(10.0, 1.0, 5.0))
    0.5
    """
    grad, dtype = _widened("unitwise_clip", "grad", grad), jnp.asarray(grad).dtype
    norm, limit, least = (
        jnp.broadcast_to(jnp.asarray(x).astype(real_dtype(grad.dtype)), grad.shape)
        for x in (g_norm, max_norm, div_eps)
    )
    clipped = norm > limit
    factor = jnp.where(clipped, limit / jnp.where(clipped, jnp.maximum(norm, least), 1), 1)
    return (factor.astype(grad.dtype) * grad).astype(dtype)


def _widened(owner: str, name: str, x: Any) -> jax.Array:
    FLOATS.check(owner, name, x)
    x = jnp.asarray(x)
    return x.astype(compute_dtype(x.dtype))


def adaptive_clip_rule(g: jax.Array, p: jax.Array, s: Any, *, axis: Axis) -> jax.Array:
    """Brock et al. 2021, equation 3, with norms per unit."""
    (size, power), (p_size, p_power) = input_norms(g, p, axis=axis)
    limit = s.clipping * jnp.maximum(p_size / p_power, s.eps)
    clipped = size > limit * power  # False for 0 * inf
    factor = jnp.where(clipped, limit / jnp.where(clipped, size, 1), 1 / power)
    return factor * (power * g)


@transformation
def adaptive_grad_clip(clipping: Limit, eps: NonNegative = 1e-3, axis: Any = None) -> Pair:
    """Shrinks the gradient of each unit to a fraction of the norm of its parameters.

        limit = clipping * max(|p_unit|, eps)
        u_unit = min(1, limit / |g_unit|) * g_unit

    Args:
      clipping: largest ratio of norms, >= 0, 0.01 in the paper; `inf` for no limit.
      eps: lower bound of a parameter norm, >= 0, so that parameters at zero can move.
      axis: the axes of a unit; see `unitwise_norm`.

    Needs `params`. Raises ValueError inside `shard_map` on updates that differ between devices, because
    a unit may be sharded. Source: Brock et al. 2021, arXiv:2102.06171.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adaptive_grad_clip(0.01), gf.sgd(0.1)))
    chain(adaptive_grad_clip(0.01), sgd(0.1))
    """
    check_axis("adaptive_grad_clip", axis)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        refuse_varying("the norm of a unit", updates, params)
        check_has_axis(axis, updates)
        rule = specialize(adaptive_clip_rule, axis=axis)
        return leafwise(rule, (updates, params), clipping=clipping, eps=eps)[0], state

    return init_empty_state, update
