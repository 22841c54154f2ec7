"""Adam-mini: Adam with one second moment for each block of weights."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, input_axes
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import ScaleByAdamState, adam_scalars
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


def adam_mini_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any, *, axis: Axis
) -> tuple[jax.Array, ...]:
    """Zhang et al. 2024, Algorithm 2."""
    axes = input_axes(g) if axis is None else axis
    square = bounded_square(g)
    count = max(g.size // max(nu.size, 1), 1)
    mu = s.b1 * mu + s.c1 * bounded(g)
    nu = s.b2 * nu + s.c2 * jnp.sum(square * (1 / count), axis=axes, keepdims=True).reshape(nu.shape)
    return s.debias1 * mu / (safe_sqrt(s.debias2 * nu) + s.eps), mu, nu


@transformation
def scale_by_adam_mini(
    b1: Decay = 0.9, b2: Decay = 0.999, eps: Positive = 1e-8, mu_dtype: Any = None, axis: Any = None
) -> Pair:
    """Divides the averaged gradient by the root of the averaged mean square of its block.

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * mean over the block of |g|^2
        u = (mu / (1 - b1^t)) / (sqrt(nu / (1 - b2^t)) + eps)

    Args:
      axis: the axes along which a block's weights lie; by default those of its inputs, so that each output
        has one number: all axes of vectors, the first of matrices and 3-D arrays, all but the last of
        kernels. For queries and keys of shape `(inputs, heads, dim)` the paper has `(0, 2)`.

    The others as in `scale_by_adam`. The paper keeps Adam for embeddings and the last layer, as
    `partition({"**/embedding": adam(rate), "**": adam_mini(rate)})` does. Raises ValueError inside
    `shard_map` on updates that differ between devices. Source: Zhang et al. 2024, arXiv:2406.16793.
    """
    check_axis("scale_by_adam_mini", axis)

    def init(params: Params) -> OptState:
        check_has_axis(axis, params)

        def block(p: Any) -> jax.Array:
            zeros = tree.zeros_like(p, at_least_float32(real_dtype(p.dtype)))
            return jnp.sum(zeros, axis=input_axes(p) if axis is None else axis, keepdims=True)

        return ScaleByAdamState(
            zero_scalar(params), first_moment(params, mu_dtype), jax.tree.map(block, params)
        )

    def update(
        updates: Updates, state: ScaleByAdamState, params: Params | None = None
    ) -> tuple[Updates, ScaleByAdamState]:
        refuse_varying("a mean", updates)
        check_like("updates", updates, "state", state.mu)
        count = increment(state.count)
        u, mu, nu = leafwise(
            specialize(adam_mini_rule, axis=axis), (updates, state.mu, state.nu), adam_scalars,
            shapes=False, count=count, b1=b1, b2=b2, eps=eps,
        )  # fmt: skip
        return u, ScaleByAdamState(count, mu, nu)

    return init, update


@transformation
def adam_mini(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    axis: Any = None,
) -> GradientTransformation:
    """Adam-mini: `scale_by_adam_mini`, decoupled weight decay, the learning rate, as AdamW's.

    Arguments as in `scale_by_adam_mini` and `adamw`. Source: Zhang et al. 2024, arXiv:2406.16793.
    """
    return chain(
        scale_by_adam_mini(b1, b2, eps, mu_dtype, axis),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
