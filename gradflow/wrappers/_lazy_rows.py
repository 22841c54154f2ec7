"""Rows without a gradient stay as they are, as those of an embedding that were not looked up."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._context import stage_name
from gradflow._core._apply import apply_updates
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay
from gradflow._rules._leafwise import as_scalar
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import roles_of
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._decay_power import one_minus_power
from gradflow.tree._map_params import has_placeholder
from gradflow.tree._paths import is_none, path_string, show


class LazyRowsState(NamedTuple):
    """For each row the steps since its last gradient, and the inner state."""

    missed: Any
    inner_state: OptState


@transformation(last=True)
def lazy_rows(inner: GradientTransformation, decay: Decay = 0.0) -> Pair:
    """Steps only in the rows that have a gradient: other rows keep their parameters and their state.

        p = p * (1 - decay)^missed                 in rows with a gradient
        u, state = inner(g)                        there; 0 and the old state in other rows

    A row is a place along the first axis of a leaf with two axes or more; other leaves always step. Counts
    and all that is not shaped like the parameters advance in every step, so that `lazy_rows(adam(...))` is
    torch's SparseAdam, but for the place of its eps.

    Args:
      inner: a whole optimizer. `masked` and `partition` choose the leaves: `partition({"embedding":
        lazy_rows(adamw(1e-3)), "rest": adamw(1e-3)}, labels)`.
      decay: in [0, 1), the decay of a whole step, `learning_rate * weight_decay` of `inner`, which a row
        catches up for the steps that it missed.

    Needs `params`. A gradient that is exactly zero counts as none. A row is decayed up to its last gradient.
    Raises ValueError inside `shard_map` on updates that differ between devices.
    Source: torch.optim.SparseAdam, PyTorch 2.

    >>> import gradflow as gf
    >>> print(gf.partition({"embedding": gf.lazy_rows(gf.adam(1e-3)), "**": gf.adam(1e-3)}))
    partition({'embedding': lazy_rows(adam(0.001)), '**': adam(0.001)})
    """

    def init(params: Params) -> OptState:
        inner_state = inner.init(params)  # refuses leaves that are not numbers
        if has_placeholder(params):
            return LazyRowsState(params, inner_state)
        return LazyRowsState(jax.tree.map(_none_missed, params), inner_state)

    def update(
        updates: Updates, state: LazyRowsState, params: Params, **extra: Any
    ) -> tuple[Updates, LazyRowsState]:
        refuse_varying("a choice of rows", updates)
        _check_rows(state.missed, updates)
        present = jax.tree.map(_rows_with_gradient, state.missed, updates, is_leaf=is_none)
        caught = jax.tree.map(_catch_up(decay), updates, state.missed, present, params, is_leaf=is_none)
        params = apply_updates(params, caught)
        u, new = inner.update(updates, state.inner_state, params, **extra)
        u = jax.tree.map(_keep_rows, present, u, jax.tree.map(jnp.zeros_like, u), is_leaf=is_none)
        u = jax.tree.map(
            lambda x, c: None if x is None else x + c.astype(x.dtype), u, caught, is_leaf=is_none
        )
        missed = jax.tree.map(_count, present, state.missed)
        return u, LazyRowsState(missed, _keep_state(present, updates, params, new, state.inner_state))

    return init, update


def _none_missed(p: Any) -> jax.Array:
    if jnp.ndim(p) < 2:
        return zero_scalar(p)
    # Reduced from zeros like the leaf, so that rows lie where the leaf's do.
    return jnp.any(tree.zeros_like(p, np.bool_), axis=tuple(range(1, jnp.ndim(p)))).astype(np.int32)


def _check_rows(missed: Any, updates: Updates) -> None:
    counts = dict(jax.tree_util.tree_leaves_with_path(missed))
    for path, g in jax.tree_util.tree_leaves_with_path(updates):
        rows = jnp.shape(g)[:1] if jnp.ndim(g) >= 2 else ()
        if path in counts and counts[path].shape != rows:
            raise ValueError(
                f"{stage_name()}: argument 'state' must be that of these parameters; got counts of shape "
                f"{counts[path].shape} for the leaf of shape {jnp.shape(g)} at {show(path_string(path))}"
            )


def _rows_with_gradient(missed: Any, g: Any) -> Any:
    """A flag for each row, or one for a leaf without rows."""
    if missed is None:
        return None
    if g is None:
        return jnp.zeros(missed.shape, np.bool_)
    if not missed.ndim:
        return jnp.ones((), np.bool_)
    return jnp.any(g != 0, axis=tuple(range(1, g.ndim)))


def _count(present: jax.Array, missed: jax.Array) -> jax.Array:
    return jnp.where(present, 0, increment(missed))


def _keep_rows(present: jax.Array, new: Any, old: Any) -> Any:
    """`new` in the rows with a gradient, `old` in the others."""
    if new is None:
        return None
    flags = present.reshape(present.shape + (1,) * (new.ndim - present.ndim))
    return jnp.where(flags, new, old)


def _catch_up(decay: Any) -> Callable[..., Any]:
    """A function of a leaf: what decays take from its rows in the steps that they missed."""

    def catch_up(g: Any, missed: jax.Array, present: jax.Array, p: Any) -> Any:
        if g is None:
            return None
        real = np.finfo(at_least_float32(p.dtype)).dtype
        lost = jnp.where(present, one_minus_power(jnp.asarray(as_scalar(decay, real)), missed), 0)
        rows = lost.reshape(lost.shape + (1,) * (p.ndim - lost.ndim))
        wide = p.astype(at_least_float32(p.dtype))
        return -rows.astype(wide.dtype) * wide

    return catch_up


def _keep_state(present: Any, updates: Updates, params: Params, new: OptState, old: OptState) -> OptState:
    """The new state, with the old rows where there is no gradient, in leaves shaped like their parameter."""
    structure: Any = jax.tree.structure(params)
    gradients = dict(jax.tree_util.tree_leaves_with_path(updates))
    flags_of = jax.tree_util.tree_leaves_with_path(present)
    rows = {path: (flags, gradients[path].shape) for path, flags in flags_of if path in gradients}

    @functools.cache
    def is_like_params(path: Any) -> bool:
        try:
            structure.flatten_up_to(functools.reduce(_child, path, old))
        except ValueError:
            return False
        return True

    @functools.cache
    def is_field_with_role(path: Any) -> bool:
        if not path:
            return False
        owner: Any = functools.reduce(_child, path[:-1], old)
        return getattr(path[-1], "name", None) in roles_of(owner.__class__)

    def choose(path: Any, new: Any, old: Any) -> Any:
        # A state holds a parameter's moment under the parameter's own path, in a tree like the parameters.
        trees = [k for k in range(len(path) + 1) if is_like_params(path[:k])]
        # A field of a rule's state is such a tree, in which a pair of sides is not one of two parameters.
        fields = [k for k in trees if is_field_with_role(path[:k])]
        starts = (k for k in fields or trees if path[k:] in rows)
        flags, shape = next((rows[path[k:]] for k in starts), (None, None))
        return _keep_rows(flags, new, old) if flags is not None and shape == jnp.shape(new) else new

    return jax.tree_util.tree_map_with_path(choose, new, old)


def _child(node: Any, key: Any) -> Any:
    """The part of a container that a key of a path names."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return next(child for (own,), child in pairs if own == key)
