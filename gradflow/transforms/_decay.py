"""Weight decay."""

from typing import Any

import jax

from gradflow._core._compose import init_empty_state
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._leafwise import leafwise
from gradflow._rules._traced_once import traced_once
from gradflow._selection._masks import check_mask, resolve_mask
from gradflow._selection._partial_trees import fill_none, keep_where
from gradflow._types import EmptyState, MaskOrFn, OptState, Pair, Params, Updates
from gradflow.packed._pack import is_packed


@traced_once
def decay_rule(g: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """u = g + weight_decay * p."""
    return g + s.weight_decay * p


@transformation(packable=True)
def add_decayed_weights(weight_decay: NonNegative = 0.0, mask: MaskOrFn | None = None) -> Pair:
    """Adds a multiple of the parameters: `u = g + weight_decay * p`.

    After the moments and before the learning rate this is the decoupled decay of AdamW. Before the
    moments it is the L2 penalty of `weight_decay / 2 * |p|^2`.

    Args:
      weight_decay: a number >= 0 or a schedule.
      mask: where to decay: a tree of booleans or a prefix of one, or a function from params to it.

    Needs `params`. Source: Loshchilov & Hutter 2017, arXiv:1711.05101.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.add_decayed_weights(1e-4), gf.sgd(0.1)))
    chain(add_decayed_weights(weight_decay=0.0001), sgd(0.1))
    """

    check_mask("add_decayed_weights", "mask", mask)

    def init(params: Params) -> OptState:
        if mask is not None:
            resolve_mask(mask, params)  # so that a wrong mask raises here, not at the first step
        return init_empty_state(params)

    def update(updates: Updates, state: EmptyState, params: Params) -> tuple[Updates, EmptyState]:
        def decay(updates: Updates, params: Params) -> Updates:
            return leafwise(decay_rule, (updates, params), weight_decay=weight_decay)[0]

        if mask is None:
            return decay(updates, params), state
        keep = resolve_mask(mask, params)
        if is_packed(params):
            # Zeros add no decay; selecting among the results would split XLA's single pass in two.
            return decay(updates, keep_where(keep, params)), state
        return fill_none(decay(keep_where(keep, updates), params), updates), state

    return init, update
