"""L-BFGS: an inverse Hessian estimated from the last few steps."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._calls._context import stage_name
from gradflow._core._compose import chain, identity
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import promote
from gradflow._expressions._arguments import Iterations, Rate
from gradflow._rules._math import short_sum
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Other, Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._shardings import is_on_mesh
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate, scale_by_zoom_linesearch
from gradflow.tree._leaves import accumulator, path_at
from gradflow.tree._paths import is_none

Arrays = list[jax.Array]

_SMALL = 512  # up to this many elements, all sums of a leaf are taken in one sequential pass


class ScaleByLBFGSState(NamedTuple):
    """Steps taken, the last parameters and gradient, and a ring buffer of their differences.

    `weights_memory` has `1 / <dp, dg>` for each pair of differences, and 0 for an unused pair.
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    params: Weights
    updates: Other
    diff_params_memory: Other
    diff_updates_memory: Other
    weights_memory: jax.Array


class _Memory(NamedTuple):
    steps: Arrays  # differences of parameters, with the ring buffer along the first axis
    changes: Arrays  # differences of gradients
    weights: jax.Array
    newest: jax.Array


def _dot(xs: Arrays, ys: Arrays, dtype: np.dtype) -> jax.Array:
    """Re<x, y>, over all leaves."""
    total = jnp.zeros((), dtype)
    for x, y in zip(xs, ys, strict=True):
        kind = promote(promote(x.dtype, y.dtype), dtype)
        total = total + short_sum((x.astype(kind).conj() * y.astype(kind)).real.astype(dtype))
    return total


def _sums(pairs: list[tuple[Arrays, Arrays]], dtype: np.dtype) -> list[jax.Array]:
    """Re<x, y> for each pair over all leaves; those of a small leaf in one pass, as one operation."""
    totals = [jnp.zeros((), dtype)] * len(pairs)
    for leaves in zip(*(zip(xs, ys, strict=True) for xs, ys in pairs), strict=True):
        products = []
        for x, y in leaves:
            kind = promote(promote(x.dtype, y.dtype), dtype)
            products.append((x.astype(kind).conj() * y.astype(kind)).real.astype(dtype))
        # On a mesh the partitioner gathers the parts of sums that one operation has.
        is_small = products[0].size <= _SMALL and not is_on_mesh(products[0])
        found = (_sums_in_one_pass if is_small else _sums_per_array)(products)
        totals = _add_each(totals, found)
    return totals


def _add_each(xs: Iterable[jax.Array], ys: Iterable[jax.Array]) -> Arrays:
    return [x + y for x, y in zip(xs, ys, strict=True)]


def _sums_per_array(arrays: Arrays) -> Arrays:
    return [jnp.sum(x) for x in arrays]


@jax.custom_jvp
def _sums_in_one_pass(arrays: Arrays) -> Arrays:
    zeros = [np.zeros((), x.dtype) for x in arrays]
    return jax.lax.reduce(arrays, zeros, _add_each, tuple(range(arrays[0].ndim)))


@_sums_in_one_pass.defjvp
def _sums_in_one_pass_jvp(primals: tuple[Arrays], tangents: tuple[Arrays]) -> tuple[Arrays, Arrays]:
    return _sums_in_one_pass(*primals), _sums_per_array(*tangents)


def _add_scaled(xs: Arrays, factor: jax.Array, ys: Arrays) -> Arrays:
    return [x + factor.astype(x.dtype) * y for x, y in zip(xs, ys, strict=True)]


def _read_slot(memory: Arrays, index: jax.Array) -> Arrays:
    return [jax.lax.dynamic_index_in_dim(leaf, index, 0, keepdims=False) for leaf in memory]


def _write_slot(memory: Arrays, index: jax.Array, values: Arrays) -> Arrays:
    return [
        jax.lax.dynamic_update_index_in_dim(leaf, value.astype(leaf.dtype), index, 0)
        for leaf, value in zip(memory, values, strict=True)
    ]


def _append_pair(memory: _Memory, step: Arrays, change: Arrays, sums: list[jax.Array]) -> _Memory:
    """The memory with a new pair, whose weight is 0 if the gradient did not grow along the step.

    After a zero step the memory is emptied: its direction has failed.
    """
    curvature, step_sq, change_sq = sums
    change_norm = jnp.sqrt(change_sq)
    usable = (curvature > np.finfo(curvature.dtype).eps * jnp.sqrt(step_sq) * change_norm) & (change_norm > 0)
    weight = 1 / jnp.where(usable, curvature, 1)
    weight = jnp.where(usable & (change_norm < jnp.inf) & (weight < jnp.inf), weight, 0)
    slots = jnp.arange(memory.weights.size, dtype=np.int32)
    weights = jnp.where(slots == memory.newest, weight, memory.weights)
    weights = jnp.where(step_sq > 0, weights, 0)
    return _Memory(
        _write_slot(memory.steps, memory.newest, step),
        _write_slot(memory.changes, memory.newest, change),
        weights,
        memory.newest,
    )


def _ring_index(slot: jax.Array, size: int) -> jax.Array:
    """The ring index of a slot that may be negative; a remainder would take a division."""
    return jnp.where(slot < 0, slot + size, slot)


def two_loops(g: Arrays, memory: _Memory, scale: jax.Array, dtype: np.dtype) -> Arrays:
    """`H g` for the inverse Hessian that starts from `scale` times the identity.

    Nocedal & Wright 2006, algorithm 7.4.
    """
    size = memory.weights.shape[0]

    def backward(age: jax.Array, carry: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
        q, shares = carry
        slot = _ring_index(memory.newest - age, size)
        share = memory.weights[slot] * _dot(_read_slot(memory.steps, slot), q, dtype)
        return _add_scaled(q, -share, _read_slot(memory.changes, slot)), shares.at[slot].set(share)

    def forward(offset: jax.Array, r: Arrays) -> Arrays:
        slot = _ring_index(memory.newest + offset, size)
        share = memory.weights[slot] * _dot(_read_slot(memory.changes, slot), r, dtype)
        return _add_scaled(r, shares[slot] - share, _read_slot(memory.steps, slot))

    q, shares = jax.lax.fori_loop(np.int32(0), np.int32(size), backward, (g, jnp.zeros_like(memory.weights)))
    return jax.lax.fori_loop(np.int32(1 - size), np.int32(1), forward, [scale.astype(x.dtype) * x for x in q])


def _scale(unit: jax.Array, memory: _Memory, scale_init_precond: bool, dtype: np.dtype) -> jax.Array:
    """The factor of the identity that the recursion starts from.

    It is the curvature of the latest used pair. Before there is one, the first step has length 1 at most.
    """
    if not scale_init_precond:
        return jnp.ones((), dtype)
    size = memory.weights.shape[0]
    ages = _ring_index(memory.newest - jnp.arange(size, dtype=np.int32), size)
    age = jnp.min(jnp.where(memory.weights > 0, ages, size - 1))
    latest = _ring_index(memory.newest - age, size)
    weight, change = memory.weights[latest], _read_slot(memory.changes, latest)
    some = weight > 0
    curvature = jnp.where(some, weight, 1) * _dot(change, change, dtype)
    return jnp.where(some, 1 / jnp.where(some, curvature, 1), unit)


def _unit_scale(square: jax.Array, g: Arrays) -> jax.Array:
    """`min(1, 1 / |g|)`. Where the squared norm overflows, the gradient is read again for its norm."""

    def again(g: Arrays) -> jax.Array:
        return 1 / jnp.minimum(tree.norm(g).astype(square.dtype), np.finfo(square.dtype).max / 4)

    return jax.lax.cond(square == jnp.inf, again, lambda _: jax.lax.rsqrt(jnp.maximum(square, 1)), g)


@functools.partial(jax.jit, static_argnames="scale_init_precond")
def _step(
    grads: list[jax.Array | None], params: Arrays, state: ScaleByLBFGSState, scale_init_precond: bool
) -> tuple[Any, ...]:
    """The direction, and the fields of the next state but its count."""
    dtype = state.weights_memory.dtype
    last_params, last = jax.tree.leaves(state.params), jax.tree.leaves(state.updates)
    # A missing gradient counts as an unchanged one.
    kept = [was if g is None else g.astype(was.dtype) for g, was in zip(grads, last, strict=True)]
    g = [jnp.zeros_like(k) if given is None else k for given, k in zip(grads, kept, strict=True)]
    change = [new - was for new, was in zip(kept, last, strict=True)]
    step = [p.astype(x.dtype) - was.astype(x.dtype) for p, was, x in zip(params, last_params, g, strict=True)]
    begun = state.count > 0
    step = [jnp.where(begun, x, 0) for x in step]
    size = state.weights_memory.shape[0]
    memory = _Memory(
        jax.tree.leaves(state.diff_params_memory),
        jax.tree.leaves(state.diff_updates_memory),
        state.weights_memory,
        (state.count - 1) % size,
    )
    *sums, square = _sums([(step, change), (step, step), (change, change), (g, g)], dtype)
    memory = _append_pair(memory, step, change, sums)
    plain = _unit_scale(square, g)
    direction = two_loops(g, memory, _scale(plain, memory, scale_init_precond, dtype), dtype)
    slope = _dot(g, direction, dtype)
    descends = (slope > 0) & (slope < jnp.inf)
    direction = [jnp.where(descends, d, plain.astype(x.dtype) * x) for d, x in zip(direction, g, strict=True)]
    kept_params = [jnp.copy(p) for p in params]
    return direction, kept_params, kept, memory.steps, memory.changes, memory.weights


@transformation(packable=True)
def scale_by_lbfgs(memory_size: Iterations = 10, scale_init_precond: bool = True) -> Pair:
    """Multiplies by an inverse Hessian estimated from the last steps.

        s = p - p_last,  y = g - g_last
        H = (I - s y' / y's) H (I - y s' / y's) + s s' / y's    for each stored pair, the oldest first
        u = H g

    Args:
      memory_size: stored pairs, >= 1; each takes twice the memory of the parameters.
      scale_init_precond: the first H is `y's / y'y` times the identity, and `min(1, 1 / |g|)` times it while
        there are no pairs; False starts from the identity.

    A pair along which the gradient does not grow (y's not above rounding) is not used. The memory is held in
    float32 at least. Complex numbers are pairs of real ones, and gradients are conjugates of those of
    `jax.grad`. Needs `params`. Source: Nocedal & Wright 2006, algorithms 7.4 and 7.5.
    """

    def init(params: Params) -> OptState:
        def ring(p: jax.Array) -> jax.Array:
            zeros = tree.zeros_like(p, at_least_float32(p.dtype))
            return jnp.broadcast_to(zeros[None], (memory_size, *p.shape))

        dtype = at_least_float32(accumulator(jax.tree.leaves(params), real=True))
        weights = zero_scalar(params, dtype)
        return ScaleByLBFGSState(
            count=zero_scalar(params),
            params=tree.zeros_like(params),
            updates=jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params),
            diff_params_memory=jax.tree.map(ring, params),
            diff_updates_memory=jax.tree.map(ring, params),
            weights_memory=jnp.broadcast_to(weights, (memory_size,)),
        )

    def update(
        updates: Updates, state: ScaleByLBFGSState, params: Params
    ) -> tuple[Updates, ScaleByLBFGSState]:
        refuse_varying("the inner products of L-BFGS", updates, params)
        check_like("updates", updates, "state", state.params)
        grads, structure = jax.tree.flatten(updates, is_leaf=is_none)
        places = jax.tree.leaves(state.params, is_leaf=is_none)
        for index, (g, place) in enumerate(zip(grads, places, strict=True)):
            if g is not None and place is None:
                raise ValueError(
                    f"{stage_name()}: params and state must have an array wherever updates do; got None at "
                    f"'{path_at(updates, index)}'"
                )
        present = [index for index, place in enumerate(places) if place is not None]
        given = [grads[index] for index in present]
        direction, *kept, weights = _step(given, jax.tree.leaves(params), state, scale_init_precond)
        for index, d in zip(present, direction, strict=True):
            if grads[index] is not None:
                grads[index] = d.astype(grads[index].dtype)
        like = jax.tree.structure(state.params)
        new_params, new_updates, steps, changes = (jax.tree.unflatten(like, leaves) for leaves in kept)
        new_state = ScaleByLBFGSState(
            increment(state.count), new_params, new_updates, steps, changes, weights
        )
        return jax.tree.unflatten(structure, grads), new_state

    return init, update


@transformation
def lbfgs(
    learning_rate: Rate | None = None,
    memory_size: Iterations = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = scale_by_zoom_linesearch(  # noqa: B008  # a value
        max_linesearch_steps=20, initial_guess_strategy="one"
    ),
) -> GradientTransformation:
    """L-BFGS: `scale_by_lbfgs`, then minus the learning rate, then a line search.

    Args:
      learning_rate: a number >= 0 or a schedule; None is 1, for use with a line search.
      memory_size, scale_init_precond: as in `scale_by_lbfgs`.
      linesearch: a transformation that chooses the step size; None leaves it to the learning rate.

    With a line search `update` needs the extra arguments `value`, `grad` and `value_fn`. Use
    `value_and_grad_from_state`, `make_step` or `minimize`, which do not evaluate the loss twice.
    Sources: Liu & Nocedal 1989; Nocedal & Wright 2006, chapters 3 and 7.
    """
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
        identity() if linesearch is None else linesearch,
    )
