"""Adding updates to parameters, and averages of parameters."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import check_like
from gradflow._calls._context import entered
from gradflow._calls._hints import result_as_updates
from gradflow._checked import Number, checked
from gradflow._dtypes import compute_dtype, is_inexact, promote
from gradflow._shardings import with_sharding_of
from gradflow._tracebacks import one_frame
from gradflow._types import Params, Updates
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups, grouped, is_traced
from gradflow.tree._leaves import without_float0
from gradflow.tree._paths import is_none

T = TypeVar("T")


@one_frame
def apply_updates(params: T, updates: Updates) -> T:
    """`p + u` in the wider dtype of the two, returned in the dtype of `p`.

    Where `u` is None, or of dtype float0, the parameter stays as it is. Raises ValueError naming the first
    leaf whose structure or shape differs: nothing is broadcast.
    """
    updates = without_float0(updates)
    with entered("apply_updates", None, frozenset()):
        hint = functools.partial(result_as_updates, updates)
        check_like("updates", updates, "params", params, hint=hint)
    return _pairwise(_add, params, updates)


@one_frame
@checked(step_size=Number())
def incremental_update(new_tensors: Params, old_tensors: Params, step_size: Any) -> Params:
    """`step_size * new + (1 - step_size) * old`, in the dtype of `old`: Polyak averaging.

    `step_size` is a number in [0, 1]. Where `new` is None the old value stays. Leaves that are not
    floating-point, such as counters, are copied from `new`. Raises ValueError naming
    the first leaf whose structure or shape differs.
    """
    with entered("incremental_update", None, frozenset()):
        check_like("new_tensors", new_tensors, "old_tensors", old_tensors)
    return _pairwise(_blend, old_tensors, new_tensors, jnp.asarray(step_size))


@one_frame
@checked(steps=Number(whole=True), update_period=Number(1, whole=True))
def periodic_update(new_tensors: Params, old_tensors: Params, steps: Any, update_period: int) -> Params:
    """`new` where `steps` is a multiple of `update_period`, else `old`: target networks.

    Where `new` is None the old value stays. Raises ValueError naming the first leaf whose structure or
    shape differs.
    """
    with entered("periodic_update", None, frozenset()):
        check_like("new_tensors", new_tensors, "old_tensors", old_tensors)
    return _pairwise(_switch, old_tensors, new_tensors, jnp.asarray(steps) % update_period == 0)


def _pairwise(function: Callable[..., Any], olds: T, news: Params, *scalars: Any) -> T:
    """`function` on the pairs of leaves where both are present, as one jitted call."""
    old, structure = jax.tree.flatten(olds, is_leaf=is_none)
    new = jax.tree.leaves(news, is_leaf=is_none)
    present = [i for i in range(len(old)) if old[i] is not None and new[i] is not None]
    rows = [(_array(old[i]), _array(new[i])) for i in present]
    if not is_traced(rows):  # one call for the whole tree: a call per leaf would dominate the step
        results = grouped(function)(rows, *scalars)
    else:
        results = call_in_groups(function, rows, *scalars, alone=_ALONE.get(function))
    for i, result in zip(present, results, strict=True):
        old[i] = result
    return jax.tree.unflatten(structure, old)


def _array(x: Any) -> jax.Array:
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _wide(x: jax.Array, y: jax.Array) -> Any:
    return compute_dtype(promote(x.dtype, y.dtype))


_ADDED_AS_THEY_ARE = frozenset(map(np.dtype, (np.float32, np.float64, np.complex64, np.complex128)))


def _sum(pair: LeafTuple) -> jax.Array:
    p, u = pair
    if p.dtype == u.dtype and p.dtype in _ADDED_AS_THEY_ARE and p.shape == u.shape:
        return jax.lax.add(p, with_sharding_of(u, p))  # jnp.add would be traced for each shape
    if not is_inexact(p.dtype):
        return p + u.astype(p.dtype)
    wide = _wide(p, u)
    return (p.astype(wide) + with_sharding_of(u.astype(wide), p)).astype(p.dtype)


_add = jax.jit(_sum)
_ALONE: dict[Any, Callable[..., Any]] = {_add: _sum}


@jax.jit
def _blend(pair: LeafTuple, step: jax.Array) -> jax.Array:
    old, new = pair
    if not is_inexact(old.dtype):
        return new.astype(old.dtype)
    wide = _wide(old, new)
    rate = step.astype(wide)
    return (rate * new.astype(wide) + (1 - rate) * old.astype(wide)).astype(old.dtype)


@jax.jit
def _switch(pair: LeafTuple, now: jax.Array) -> jax.Array:
    old, new = pair
    return jnp.where(now, new.astype(old.dtype), old)
