"""Updates scaled to a given norm."""

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Finite, NonNegative
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._scaled_norm import rescale_rule, scaled_norm
from gradflow._types import EmptyState, Pair, Params, Updates


def normalize_scalars(size: jax.Array, power: jax.Array, scale_factor: jax.Array, eps: jax.Array) -> Scalars:
    """The factor by which `power * g` is multiplied."""
    divisor = size + eps * power
    return {"factor": scale_factor / jnp.where(divisor > 0, divisor, 1)}


@transformation(reports=("norm",), elementwise=True, sums=True)
def normalize_by_update_norm(
    scale_factor: Finite = 1.0, eps: NonNegative = 1e-6, *, axis_name: AxisName = None
) -> Pair:
    """Divides the updates by their norm: `u = scale_factor * g / (norm + eps)`.

    Args:
      scale_factor: the resulting norm; a negative one descends.
      eps: added to the norm, >= 0, so that small updates stay small. Zero updates stay zero for every eps.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, or
        `()` if every device holds the same updates. A leaf known to be replicated counts once.

    Reports `norm`, over all leaves before the division. Raises ValueError inside `shard_map` where updates
    differ along an axis and no `axis_name` is given.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.normalize_by_update_norm(), gf.sgd(0.1)))
    chain(normalize_by_update_norm(), sgd(0.1))
    """
    check_axis_name("normalize_by_update_norm", axis_name)

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        size, power = scaled_norm(updates, sum_axes(axis_name, updates))
        report("norm", lambda: size / power)
        (u,) = leafwise(
            rescale_rule, (updates,), normalize_scalars,
            size=size, power=power, scale_factor=scale_factor, eps=eps,
        )  # fmt: skip
        return u, state

    return init_empty_state, update


@transformation
def normalize(*, axis_name: AxisName = None) -> GradientTransformation:
    """Divides the updates by their norm: `u = g / norm`. Zero updates stay zero.

    It is `normalize_by_update_norm` with `eps=0`; `axis_name` and reports are as there.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.normalize(), gf.sgd(0.1)))
    chain(normalize(), sgd(0.1))
    """
    return normalize_by_update_norm(eps=0.0, axis_name=axis_name)
