"""Polyak's step: the one that would reach the lowest loss if the loss were linear."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._extra_arguments import loss_value
from gradflow._calls._reports import report
from gradflow._core._compose import chain, init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Finite, Limit, NonNegative, Rate
from gradflow._rules._leafwise import as_scalar, leafwise
from gradflow._rules._math import in_range, kept_in_range
from gradflow._rules._mesh_axes import AxisName, check_axis_name, global_norm, sum_axes
from gradflow._types import EmptyState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate

VARIANTS = ("sps", "sps+")


@jax.jit
def polyak_step(gap: jax.Array, norm: jax.Array, limit: jax.Array, eps: jax.Array) -> jax.Array:
    """`min(limit, gap / (norm^2 + eps))`, and 0 for a zero gradient; the square is never formed."""
    some = norm != 0  # also of a NaN, which is to show in every update
    size = jnp.where(some, norm, 1)
    # The barrier keeps XLA from merging the two divisions into one by the square.
    share = jax.lax.optimization_barrier(gap / size)
    step = share / (size + eps / size)
    # A quotient of finite numbers stays finite; an infinite gap shows.
    step = jnp.where(jnp.isfinite(gap) & ~jnp.isnan(step), in_range(step), step)
    return jnp.where(some, jnp.minimum(step, limit), 0) + (gap - gap)


def polyak_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = step * g, finite for a finite step."""
    return kept_in_range(s.step * g, g + (s.step - s.step))


@transformation(reports=("step",), elementwise=True, sums=True)
def scale_by_polyak(
    f_min: Finite = 0.0,
    max_learning_rate: Limit = 1.0,
    eps: NonNegative = 0.0,
    variant: str = "sps",
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Multiplies by the step that would reach `f_min` if the loss were linear.

        step = min(max_learning_rate, (value - f_min) / (|g|^2 + eps))
        u = step * g

    Args:
      f_min: the lowest value of the loss, or a bound below it.
      max_learning_rate: the longest step, >= 0.
      eps: >= 0; the step is 0 for a zero gradient with any eps.
      variant: "sps", or "sps+". Where the loss is below `f_min`, "sps" ascends and "sps+" takes no step.
      axis_name: for a call inside `shard_map`; see `clip_by_global_norm`.

    `update` needs the extra argument `value`, the loss at `params`. Reports `step`.
    Sources: Loizou et al. 2021, arXiv:2002.10542; "sps+": Garrigos et al. 2023, arXiv:2307.14528.
    """
    check_axis_name("scale_by_polyak", axis_name)
    if variant not in VARIANTS:
        raise ValueError(
            f"scale_by_polyak: argument 'variant' must be 'sps' or 'sps+'; got {describe(variant)}"
        )

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, *, value: Any
    ) -> tuple[Updates, EmptyState]:
        norm = global_norm(updates, sum_axes(axis_name, updates))
        loss = loss_value(value).astype(norm.dtype)
        # NaN for a loss that is not finite, which the bounds of the step would turn into a number.
        gap = kept_in_range(loss - as_scalar(f_min, norm.dtype), loss)
        if variant == "sps+":
            gap = jnp.maximum(gap, 0)
        limit, small = (as_scalar(number, norm.dtype) for number in (max_learning_rate, eps))
        step = polyak_step(gap, norm, limit, small)
        report("step", step)
        return leafwise(polyak_rule, (updates,), step=step)[0], state

    return init_empty_state, update


@transformation
def polyak_sgd(
    max_learning_rate: Limit = 1.0,
    scaling: Rate = 1.0,
    f_min: Finite = 0.0,
    eps: NonNegative = 0.0,
    variant: str = "sps",
    *,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """SGD with Polyak's step: `scale_by_polyak`, then minus `scaling`.

    Args:
      scaling: a number >= 0 or a schedule; it multiplies the step, `max_learning_rate` included.

    The others and the source as in `scale_by_polyak`.
    """
    return chain(
        scale_by_polyak(f_min, max_learning_rate, eps, variant, axis_name=axis_name),
        scale_by_learning_rate(scaling),
    )
