"""Calls an inner transformation on some steps only, and copies its state on none."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._checks import match_outputs
from gradflow._calls._reports import collecting, forward, is_collecting, missing, note
from gradflow._calls._scalars import with_scalars_together
from gradflow._core._eager import known_arrays
from gradflow._core._transformation import GradientTransformation, below, declared_reports, label_of, stage_of
from gradflow._platform import by_platform
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
    keep_branch: bool = False,
    parts: int = 1,
) -> tuple[Updates, OptState]:
    """Calls `inner.update` where `take` is True; elsewhere the updates are zero and the state is unchanged.

    On a CPU this is a branch. The branch not taken returns its operands, so that XLA needs no copy of them,
    and the zeros are selected outside, where they join whatever reads the updates. `spare` is a tree like
    the updates that nothing reads afterwards, for that branch to return where the updates are still needed.
    On an accelerator `inner.update` always runs, and each result is selected: the select joins the kernel
    that reads the old value anyway, while a branch would copy updates and state. `keep_branch` saves the
    time of a step that is not taken there, too, for more memory: a branch on a TPU, a loop on a GPU.

    `elsewhere="pass"` returns the updates unchanged in the place of zeros. Reports and notes of a step that
    is not taken are NaN. `parts` as in `with_scalars_together`.
    """
    spare = updates if spare is None else spare
    stage = stage_of(inner)
    alike = stage is not None and stage.trees == "alike"

    update = with_scalars_together(inner.update, parts=parts)

    def taken(given: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        if not is_collecting():
            new_updates, new_state = update(given, state, params, **extra)
            return match_outputs(new_updates, given) if alike else new_updates, new_state, {}, {}
        with collecting() as recorded:
            new_updates, new_state = update(given, state, params, **extra)
        values = below(inner, recorded.values)
        nothing = jnp.full((), missing(), jnp.float32)
        reports = {n: values.get(n, nothing) for n in declared_reports(inner)}
        return new_updates, new_state, reports, recorded.notes

    spare_is_updates = spare is updates
    known = known_arrays(getattr(inner, "expression", None))
    # Traced once for both ways.
    taken_once = jax.jit(taken, inline=True)
    shapes: Any
    collected: Any
    if alike and not is_collecting() and not keep_branch:
        # Known without tracing the inner update again.
        shapes, collected = updates, [{}, {}]
    else:
        shapes, _, *collected = jax.eval_shape(taken_once, updates, state)

    def skipped(spare: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        same = jax.tree.map(_returned, spare, shapes)
        reports, notes = jax.tree.map(lambda like: jnp.full(like.shape, missing(), like.dtype), collected)
        return same, state, reports, notes

    def branch(spare: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        run = taken_once if spare_is_updates else lambda _, state: taken_once(updates, state)
        return jax.lax.cond(take, run, skipped, spare, state)

    def select(spare: Updates, state: OptState) -> tuple[Updates, OptState, Recorded, Recorded]:
        if known is None:
            given = _zero_unless(take, updates)
        else:
            others = [x for x in jax.tree.leaves((state, params, extra)) if isinstance(x, jax.Array)]
            given = _zero_in_derivatives(updates, take, [*known, *others])
        new_updates, *new = taken_once(given, state)
        old_updates, *old = skipped(spare, state)
        if elsewhere == "pass":
            return tuple(_select_trees(take, [new_updates, *new], [old_updates, *old]))
        # The updates are selected outside. Here, too, one more kernel would read the spare ones.
        return (new_updates, *_select_trees(take, new, old))

    if keep_branch and not jax.sharding.get_abstract_mesh().manual_axes:
        results = _branch_or_loop(take, taken_once, skipped, updates, spare, state)
    else:
        accelerator = branch if keep_branch else select
        results = by_platform(spare, state, cpu=branch, accelerator=accelerator)
    new_updates, new_state, recorded, notes = results
    for name, value in notes.items():
        note(name, value)
    label = label_of(inner)
    forward({f"{label}.{name}" if label else name: value for name, value in recorded.items()})
    if elsewhere == "pass":
        return new_updates, new_state
    return _zero_unless(take, new_updates), new_state


def _branch_or_loop(
    take: jax.Array,
    taken: Callable[[Updates, OptState], Any],
    skipped: Callable[[Updates, OptState], Any],
    updates: Updates,
    spare: Updates,
    state: OptState,
) -> Any:
    """`taken(updates, state)` or `skipped(spare, state)`, of equal types: a branch, and on a GPU a loop.

    A loop of at most one turn overwrites the state. XLA on a GPU copies what a branch returns, twice where it
    is unchanged: Sophia held a model of scratch memory, and steps without an estimate copied its average
    twice. The derivative is that of the branch, since a loop has none in reverse mode.
    """
    closed, shapes = jax.make_jaxpr(taken, return_shape=True)(updates, state)
    # What is differentiated may not hold tracers, such as those of the constants.
    jaxpr, structure = closed.jaxpr, jax.tree.structure(shapes)

    def run(constants: list[Any], updates: Updates, state: OptState) -> Any:
        leaves = jax.core.eval_jaxpr(jaxpr, constants, *jax.tree.leaves((updates, state)))
        return jax.tree.unflatten(structure, leaves)

    def branch(take: Any, constants: list[Any], updates: Updates, spare: Updates, state: OptState) -> Any:
        return jax.lax.cond(take, lambda _, old: run(constants, updates, old), skipped, spare, state)

    def loop(take: Any, constants: list[Any], updates: Updates, spare: Updates, state: OptState) -> Any:
        def turn(carry: Any) -> Any:
            return jnp.zeros_like(take), run(constants, updates, carry[1][1])

        return jax.lax.while_loop(lambda carry: carry[0], turn, (take, skipped(spare, state)))[1]

    @jax.custom_jvp
    def choice(*operands: Any) -> Any:
        return by_platform(*operands, cpu=branch, accelerator=loop, tpu=branch)

    choice.defjvp(lambda primals, tangents: jax.jvp(branch, primals, tangents))
    return choice(take, list(closed.consts), updates, spare, state)


def _returned(u: jax.Array, like: jax.Array) -> jax.Array:
    """An update as the branch not taken returns it: zeros where `inner` changes its shape."""
    return u.astype(like.dtype) if u.shape == like.shape else jnp.zeros(like.shape, like.dtype)


def _zero_unless(take: jax.Array, updates: Updates) -> Updates:
    leaves, structure = jax.tree.flatten(updates)
    return jax.tree.unflatten(structure, call_in_groups(_keep_if, [(u,) for u in leaves], take))


@jax.custom_jvp
def _zero_in_derivatives(updates: Updates, take: jax.Array, others: list[jax.Array]) -> Updates:
    """The updates; for derivatives with respect to any operand, zeros where they are not taken.

    Zeros keep these derivatives finite. Without them, one kernel computes a norm of the updates and whether
    they are finite: guard(clip + adamw) launches 33 kernels on a GPU, not 43.
    """
    return updates


@_zero_in_derivatives.defjvp
def _zero_in_derivatives_jvp(primals: Any, tangents: Any) -> tuple[Updates, Updates]:
    (updates, take, _), (dots, *_) = primals, tangents
    return _zero_unless(take, updates), _zero_unless(take, dots)


@jax.jit
def _keep_if(row: LeafTuple, take: jax.Array) -> jax.Array:
    (u,) = row
    return jnp.where(take, u, jnp.zeros((), u.dtype))


def _select_trees(take: jax.Array, news: list[Any], olds: list[Any]) -> list[Any]:
    leaves, structure = jax.tree.flatten(news)
    kept = call_in_groups(_select, list(zip(leaves, jax.tree.leaves(olds), strict=True)), take)
    return jax.tree.unflatten(structure, kept)


@jax.jit
def _select(row: LeafTuple, take: jax.Array) -> jax.Array:
    new, old = row
    return jax.lax.select(take, new, old)
