"""Steps that keep parameters at or above zero."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._rules._leafwise import leafwise
from gradflow._types import EmptyState, Pair, Params, Updates


def nonnegative_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """u = max(g, -p)."""
    return jnp.maximum(g, -p)


@transformation(leaves="real", packable=True)
def keep_params_nonnegative() -> Pair:
    """Shortens steps so that no parameter falls below zero: `u = max(g, -p)`. Use it as the last stage.

    A parameter that is already negative becomes zero. Needs `params`. Raises TypeError for complex ones.

    >>> import gradflow as gf
    >>> tx = gf.keep_params_nonnegative()
    >>> updates, state = tx.update(-3.0, tx.init(2.0), 2.0)
    >>> float(updates)
    -2.0
    """

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        return leafwise(nonnegative_rule, (updates, params))[0], state

    return init_empty_state, update
