"""Calling an inner transformation on some steps only, without a copy of its state on any."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._base import GradientTransformation, OptState, Params, Updates
from gradflow._report import below, collecting, declared_reports, forward, is_collecting, label_of, note

Heard = dict[str, jax.Array]


def update_if(
    take: jax.Array,
    inner: GradientTransformation,
    updates: Updates,
    state: OptState,
    params: Params | None,
    extra: Mapping[str, Any],
    spare: Updates | None = None,
    *,
    elsewhere: str = "zero",
) -> tuple[Updates, OptState]:
    """`inner.update` where `take` holds; elsewhere zero updates and the state as it is.

    The branch not taken returns its operands, so that XLA needs no copy of them, and the zeros are
    selected outside, where they join whatever reads the updates. `spare` is a tree like the updates that
    nobody reads afterwards, for that branch to return where the updates themselves live on.
    `elsewhere="pass"` hands the updates on as they come in the place of zeros.
    Reports and notes of the branch not taken are NaN.
    """
    spare = updates if spare is None else spare

    def taken(spare: Updates, state: OptState) -> tuple[Updates, OptState, Heard, Heard]:
        given = spare if spare_is_updates else updates
        if not is_collecting():
            return *inner.update(given, state, params, **extra), {}, {}
        with collecting() as heard:
            new_updates, new_state = inner.update(given, state, params, **extra)
        values = below(inner, heard.values)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        reports = {n: values.get(n, nothing) for n in declared_reports(inner)}
        return new_updates, new_state, reports, heard.notes

    spare_is_updates = spare is updates
    shapes, _, *told = jax.eval_shape(taken, spare, state)

    def skipped(spare: Updates, state: OptState) -> tuple[Updates, OptState, Heard, Heard]:
        same = jax.tree.map(lambda u, like: u.astype(like.dtype), spare, shapes)
        reports, notes = jax.tree.map(lambda like: jnp.full(like.shape, jnp.nan, like.dtype), told)
        return same, state, reports, notes

    new_updates, new_state, heard, notes = jax.lax.cond(take, taken, skipped, spare, state)
    for name, value in notes.items():
        note(name, value)
    label = label_of(inner)
    forward({f"{label}.{name}" if label else name: value for name, value in heard.items()})
    if elsewhere == "pass":
        return new_updates, new_state
    zeroed = jax.tree.map(lambda u: jnp.where(take, u, jnp.zeros((), u.dtype)), new_updates)
    return zeroed, new_state
