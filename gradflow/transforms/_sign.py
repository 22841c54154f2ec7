"""Updates reduced to their signs."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._rules._leafwise import leafwise
from gradflow._rules._traced_once import traced_once
from gradflow._types import EmptyState, Pair, Params, Updates


@traced_once
def sign_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = sign(g)."""
    return jnp.sign(g)


@transformation(packable=True)
def scale_by_sign() -> Pair:
    """Replaces updates by their signs: `u = sign(g)`, 0 where `g` is 0; for complex numbers `g / |g|`.

    Source: Bernstein et al. 2018, arXiv:1802.04434.

    >>> import gradflow as gf
    >>> tx = gf.scale_by_sign()
    >>> updates, state = tx.update(-3.0, tx.init(0.0))
    >>> float(updates)
    -1.0
    """

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return leafwise(sign_rule, (updates,))[0], state

    return init_empty_state, update
