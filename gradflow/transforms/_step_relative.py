"""Steps whose length is a share of the weights' own norm."""

from typing import Any

import jax

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Rate
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import increment, zero_scalar
from gradflow._rules._unit_norm import Axis, check_axis, check_has_axis, unit_direction, unit_norm
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._hyperball import radius_of, refuse_zero_weights
from gradflow.transforms._scale import ScaleByScheduleState


def step_relative_rule(g: jax.Array, p: jax.Array, s: Any, *, axis: Axis) -> jax.Array:
    """The direction of the update, at the scale of the weights."""
    size, power = unit_norm(p, axis)
    return -s.learning_rate * (size / power) * unit_direction(g, axis)


@transformation(reports=("learning_rate",), last=True)
def step_relative(learning_rate: Rate, axis: Any = None) -> Pair:
    """Steps by a share of the weights' norm, whatever the length of the update.

        u = -learning_rate * norm(p) / norm(g) * g                       0 where norm(g) is 0

    Takes the place of `scale_by_learning_rate`. Weights may grow, unlike those of `step_on_hyperball`.

    Args:
      learning_rate: >= 0, the norm of a step relative to the norm of the weights.
      axis: the axes over which a norm runs, by default all; `(-2, -1)` where a leaf is a stack of matrices.

    Needs `params`. Raises ValueError for weights of zero, which would stay zero; traced ones stay zero.
    `scale_by_trust_ratio` has the same direction, and leaves updates of such weights as they are.
    Source: NVIDIA's Emerging-Optimizers, 2026.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_muon(), gf.step_relative(0.01)))
    chain(scale_by_muon(), step_relative(0.01))
    """
    check_axis("step_relative", axis)

    def init(params: Params) -> OptState:
        refuse_varying("the norm of a leaf", params)
        check_has_axis(axis, params)
        norms = jax.tree.map(lambda p: radius_of(p, axis), params)
        refuse_zero_weights(norms, params, "because a step is a share of their norm")
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params
    ) -> tuple[Updates, ScaleByScheduleState]:
        refuse_varying("the norm of a leaf", updates, params)
        report("learning_rate", learning_rate)
        rule = specialize(step_relative_rule, axis=axis)
        (u,) = leafwise(rule, (updates, params), learning_rate=learning_rate)
        return u, ScaleByScheduleState(increment(state.count))

    return init, update
