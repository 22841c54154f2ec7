"""Clipping per element."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import Limit
from gradflow._rules._leafwise import leafwise
from gradflow._types import EmptyState, Pair, Params, Updates
from gradflow.packed._pack import abstract_tree


def clip_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = min(max(g, -max_delta), max_delta)."""
    return jnp.clip(g, -s.max_delta, s.max_delta)


def is_clipped_rule(g: jax.Array, s: Any) -> jax.Array:
    """1 where `clip_rule` changes the gradient."""
    return (jnp.abs(g) > s.max_delta).astype(g.dtype)


@transformation(reports=("fraction",), leaves="real", elementwise=True)
def clip(max_delta: Limit) -> Pair:
    """Limits every element: `u = min(max(g, -max_delta), max_delta)`.

    Unlike `clip_by_global_norm` it changes the direction of the step.

    Args:
      max_delta: largest absolute value, >= 0; `inf` for no limit.

    Reports `fraction`, the share of clipped elements. Complex leaves raise TypeError: they have no order.

    >>> import gradflow as gf
    >>> tx = gf.clip(1.0)
    >>> updates, state = tx.update(3.0, tx.init(0.0))
    >>> float(updates)
    1.0
    """

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        report("fraction", lambda: _fraction(updates, max_delta))
        return leafwise(clip_rule, (updates,), max_delta=max_delta)[0], state

    return init_empty_state, update


def _fraction(updates: Updates, max_delta: Any) -> jax.Array:
    (clipped,) = leafwise(is_clipped_rule, (updates,), max_delta=max_delta)
    return tree.sum(clipped) / max(tree.size(abstract_tree(clipped)), 1)
