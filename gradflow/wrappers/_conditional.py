"""Calling an inner transformation on some steps only, without a copy of its state on any."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._checks import match_outputs
from gradflow._calls._reports import collecting, forward, is_collecting, note
from gradflow._core._transformation import GradientTransformation, below, declared_reports, label_of, stage_of
from gradflow._types import OptState, Params, Updates
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups

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
    stage = stage_of(inner)
    alike = stage is not None and stage.trees == "alike"

    def taken(spare: Updates, state: OptState) -> tuple[Updates, OptState, Heard, Heard]:
        given = spare if spare_is_updates else updates
        if not is_collecting():
            new_updates, new_state = inner.update(given, state, params, **extra)
            return match_outputs(new_updates, given) if alike else new_updates, new_state, {}, {}
        with collecting() as heard:
            new_updates, new_state = inner.update(given, state, params, **extra)
        values = below(inner, heard.values)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        reports = {n: values.get(n, nothing) for n in declared_reports(inner)}
        return new_updates, new_state, reports, heard.notes

    spare_is_updates = spare is updates
    shapes: Any
    told: Any
    if alike and not is_collecting():
        # Known without tracing the inner update a second time.
        shapes, told = updates, [{}, {}]
    else:
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
    leaves, structure = jax.tree.flatten(new_updates)
    zeroed = call_in_groups(_keep_if, [(u,) for u in leaves], take)
    return jax.tree.unflatten(structure, zeroed), new_state


@jax.jit
def _keep_if(row: LeafTuple, take: jax.Array) -> jax.Array:
    (u,) = row
    return jnp.where(take, u, jnp.zeros((), u.dtype))
