"""Steps on a sphere: each matrix keeps the norm with which it began."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._dtypes import compute_dtype
from gradflow._expressions._arguments import Rate
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import increment, replicate_like, zero_scalar
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, unit_direction, unit_norm
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._paths import path_string


class HyperballState(NamedTuple):
    """Steps taken, and the norm that each leaf, or each of its units, keeps."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    radius: Updates


@functools.partial(jax.jit, static_argnames="axis")
def radius_of(p: jax.Array, axis: Axis) -> jax.Array:
    """The norm of each unit, in float32 at least."""
    size, power = unit_norm(p.astype(compute_dtype(p.dtype)), axis)
    return size / power


def refuse_zero_weights(norms: Updates, params: Params, reason: str) -> None:
    """Raises ValueError naming the first leaf with weights of zero, as far as they are concrete."""
    for (path, norm), p in zip(
        jax.tree_util.tree_leaves_with_path(norms), jax.tree.leaves(params), strict=True
    ):
        known = not isinstance(norm, jax.core.Tracer) and norm.is_fully_addressable
        if p.size and known and not np.all(np.asarray(norm) > 0):
            raise ValueError(
                f"{stage_name()}: weights must not be zero, {reason}; got zeros, "
                f"or a unit of zeros, at '{path_string(path)}'. Give such leaves another optimizer with "
                "gradflow.partition."
            )


def hyperball_rule(
    g: jax.Array, radius: jax.Array, p: jax.Array, s: Any, *, axis: Axis
) -> tuple[jax.Array, jax.Array]:
    """One step of length `learning_rate` on the unit sphere, seen at the scale of the radius."""
    moved = unit_direction(unit_direction(p, axis) - s.learning_rate * unit_direction(g, axis), axis)
    # A copy, so that the old state and the new one may both be donated.
    return radius * moved - p, jnp.copy(radius)


@transformation(reports=("learning_rate",), last=True)
def step_on_hyperball(learning_rate: Rate, axis: Any = None) -> Pair:
    """Steps by the direction of the update alone, and returns each leaf to the norm that it had at init.

        n(x) = x / norm(x)
        p_new = radius * n(n(p) - learning_rate * n(g)),  radius = norm(p) at init
        u = p_new - p

    Takes the place of `scale_by_learning_rate`, and of weight decay: AdamH is `chain(scale_by_adam(),
    step_on_hyperball(0.018))`, MuonH has `scale_by_muon()` there.

    Args:
      learning_rate: >= 0, the length of a step relative to the radius; 0.018 in the published runs.
      axis: the axes over which a norm runs, by default all; `(-2, -1)` where a leaf is a stack of matrices.

    The stored radius keeps the norm in bfloat16, where the norm of the moment drifts. Needs `params`. Raises
    ValueError for weights of zero, which have no direction to keep; traced ones stay zero.
    `step_relative` is the same step without the return. Source: Wen et al. 2026, arXiv:2606.16899.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_muon(), gf.step_on_hyperball(0.01)))
    chain(scale_by_muon(), step_on_hyperball(0.01))
    """
    check_axis("step_on_hyperball", axis)

    def init(params: Params) -> OptState:
        refuse_varying("the norm of a leaf", params)
        check_has_axis(axis, params)
        radius = jax.tree.map(lambda p: replicate_like(radius_of(p, axis), params), params)
        refuse_zero_weights(radius, params, "because they have no norm to keep")
        return HyperballState(zero_scalar(params), radius)

    def update(updates: Updates, state: HyperballState, params: Params) -> tuple[Updates, HyperballState]:
        refuse_varying("the norm of a leaf", updates, params)
        report("learning_rate", learning_rate)
        rule = specialize(hyperball_rule, axis=axis)
        u, radius = leafwise(rule, (updates, state.radius, params), shapes=False, learning_rate=learning_rate)
        return u, HyperballState(increment(state.count), radius)

    return init, update
