"""Loss scaling: gradients of a multiplied loss, which float16 does not round to zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import match_outputs
from gradflow._calls._reports import report
from gradflow._checked import STATE, checked
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, stage_of
from gradflow._expressions._arguments import InitialPositive, Multiplier, Size
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._state import increment, replicate_like, widen_leaf, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if
from gradflow.wrappers._guard import all_finite

_LARGEST = 2.0**60  # the factor and its inverse stay in range, and so do products with losses


class LossScaleState(NamedTuple):
    """The factor of the loss, finite steps since it changed, steps skipped in all, and the inner state."""

    scale: jax.Array
    good: jax.Array
    skipped: jax.Array
    inner_state: OptState


def unscale_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = g / scale, exact for a power of two."""
    return g / s.scale


@transformation(reports=("scale", "good", "skipped"))
def with_loss_scale(
    inner: GradientTransformation,
    initial: InitialPositive = 2.0**15,
    interval: Size | None = 2000,
    factor: Multiplier = 2.0,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Divides gradients of a multiplied loss by its factor, and finds the factor.

        g = float32(g) / scale
        all finite:  the step of inner;  after `interval` such steps  scale = scale * factor
        otherwise:   no step;  scale = scale / factor

    Small gradients are zero in float16; those of `loss * loss_scale(state)` are not. `make_step` multiplies
    by itself. A narrow gradient becomes float32 before the division.

    Args:
      inner: the whole optimizer, on gradients of the loss itself. Around float16 parameters, put
        `master_params` inside.
      initial: the first factor, > 0; a power of two divides without rounding.
      interval: finite steps in a row after which the factor grows, >= 1; None leaves it as it is.
      factor: of its changes, > 1. It stays between 2^-60 and 2^60.
      axis_name: axes of `shard_map` over which all devices take one decision; `()` for replicated updates.

    Reports `scale`, `good` and `skipped`, as in the state. Raises ValueError inside `shard_map` without
    `axis_name`. Source: Micikevicius et al. 2017, arXiv:1710.03740; defaults but `initial` are PyTorch's.

    >>> import gradflow as gf
    >>> print(gf.with_loss_scale(gf.master_params(gf.adamw(1e-3))))
    with_loss_scale(master_params(adamw(0.001)))
    """
    check_axis_name("with_loss_scale", axis_name)

    def init(params: Params) -> OptState:
        return LossScaleState(
            replicate_like(jnp.asarray(initial, jnp.float32), params),
            zero_scalar(params),
            zero_scalar(params),
            inner.init(params),
        )

    def update(
        updates: Updates, state: LossScaleState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, LossScaleState]:
        grads = unscaled(updates, state.scale)
        finite = all_finite(grads, sum_axes(axis_name, updates))
        new, inner_state = update_if(finite, inner, grads, state.inner_state, params, extra)
        # An inner stage of trees that are not alike has dtypes of its own, as master_params.
        stage = stage_of(inner)
        new = match_outputs(new, updates) if stage is not None and stage.trees == "alike" else new
        good = jnp.where(finite, increment(state.good), 0)
        skipped = jnp.where(finite, state.skipped, increment(state.skipped))
        scale = state.scale
        if interval is not None:
            times = jnp.asarray(factor, jnp.float32)
            due = good >= interval
            moved = jnp.where(finite, jnp.where(due, scale * times, scale), scale / times)
            scale = jnp.clip(moved, np.float32(1 / _LARGEST), np.float32(_LARGEST))
            good = jnp.where(due, 0, good)
        report("scale", state.scale)
        report("good", good)
        report("skipped", skipped)
        return new, LossScaleState(scale, good, skipped, inner_state)

    return init, update


@checked(state=STATE)
def loss_scale(state: OptState) -> jax.Array:
    """The factor of the loss for the next gradient; 1 for a state without `with_loss_scale`.

        grads = jax.grad(lambda params: loss(params) * loss_scale(state))(params)

    Multiply in float32: the product may be out of the range of float16. Raises ValueError for a state of two
    such wrappers.

    >>> import gradflow as gf
    >>> float(gf.loss_scale(gf.with_loss_scale(gf.sgd(0.1), 1024.0).init(0.0)))
    1024.0
    """
    found = [x for x in jax.tree.leaves(state, is_leaf=_is_scale) if _is_scale(x)]
    if not found:
        return jnp.ones((), jnp.float32)
    if len(found) > 1 or any(map(_is_scale, jax.tree.leaves(found[0].inner_state, is_leaf=_is_scale))):
        raise ValueError(
            "loss_scale: argument 'state' must have one factor of the loss; got the states of two "
            "with_loss_scale. Put one around the whole optimizer"
        )
    scale: jax.Array = found[0].scale
    return scale


def unscaled(grads: Updates, scale: jax.Array) -> Updates:
    """Gradients of a multiplied loss divided by its factor, in float32 at least."""
    return leafwise(unscale_rule, (jax.tree.map(widen_leaf, grads),), scale=scale)[0]


def _is_scale(node: Any) -> bool:
    return isinstance(node, LossScaleState)
