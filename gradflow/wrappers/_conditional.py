"""Calls an inner transformation on some steps only, and copies its state on none."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._checks import match_outputs
from gradflow._calls._reports import collecting, forward, is_collecting, note
from gradflow._core._transformation import GradientTransformation, below, declared_reports, label_of, stage_of
from gradflow._types import OptState, Params, Updates
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups

Recorded = dict[str, jax.Array]


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
    """Calls `inner.update` where `take` is True; elsewhere the updates are zero and the state is unchanged.

    The branch not taken returns its operands, so that XLA does not copy them. The zeros are selected outside
    the branch, where they fuse with what reads the updates. `spare` is a tree like the updates that is not
    read afterwards; that branch returns it where the updates themselves are still needed.
    With `elsewhere="pass"` the updates pass through unchanged instead of becoming zeros.
    Reports and notes of the branch not taken are NaN.
    """
    spare = updates if spare is None else spare
    stage = stage_of(inner)
    alike = stage is not None and stage.trees == "alike"

    def taken(spare: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        given = spare if spare_is_updates else updates
        if not is_collecting():
            new_updates, new_state = inner.update(given, state, params, **extra)
            return match_outputs(new_updates, given) if alike else new_updates, new_state, {}, {}
        with collecting() as recorded:
            new_updates, new_state = inner.update(given, state, params, **extra)
        values = below(inner, recorded.values)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        reports = {n: values.get(n, nothing) for n in declared_reports(inner)}
        return new_updates, new_state, reports, recorded.notes

    spare_is_updates = spare is updates
    shapes: Any
    collected: Any
    if alike and not is_collecting():
        # Known without tracing the inner update again.
        shapes, collected = updates, [{}, {}]
    else:
        shapes, _, *collected = jax.eval_shape(taken, spare, state)

    def skipped(spare: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        same = jax.tree.map(lambda u, like: u.astype(like.dtype), spare, shapes)
        reports, notes = jax.tree.map(lambda like: jnp.full(like.shape, jnp.nan, like.dtype), collected)
        return same, state, reports, notes

    new_updates, new_state, recorded, notes = jax.lax.cond(take, taken, skipped, spare, state)
    for name, value in notes.items():
        note(name, value)
    label = label_of(inner)
    forward({f"{label}.{name}" if label else name: value for name, value in recorded.items()})
    if elsewhere == "pass":
        return new_updates, new_state
    leaves, structure = jax.tree.flatten(new_updates)
    zeroed = call_in_groups(_keep_if, [(u,) for u in leaves], take)
    return jax.tree.unflatten(structure, zeroed), new_state


@jax.jit
def _keep_if(row: LeafTuple, take: jax.Array) -> jax.Array:
    (u,) = row
    return jnp.where(take, u, jnp.zeros((), u.dtype))
