"""Weights of more digits than their bfloat16 or float16 parameters have."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._coding._master import FORMS, first_kept
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._rules._roles import Weights
from gradflow._rules._state import widen_leaf, zero_scalar
from gradflow._selection._inner_arguments import inner_arguments
from gradflow._shardings import with_sharding_of
from gradflow._types import MaskedNode, OptState, Pair, Params, Updates, is_absent
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups

_NARROW = (np.dtype(jnp.bfloat16), np.dtype(np.float16))


class MasterParamsState(NamedTuple):
    """What is kept of each narrow parameter's weight, the next seed, and the inner state."""

    weights: Weights
    seed: jax.Array
    inner_state: OptState


@transformation(trees="structure", last=True)
def master_params(inner: GradientTransformation, form: str = "master") -> Pair:
    """Trains bfloat16 and float16 parameters with weights of more digits. `inner` sees float32.

        w = p and what is kept of it;  w = w + inner(g, w);  u = round(w) - p

    A step that is smaller than the gap to a parameter's neighbor would be lost without it. `u` is float32 for
    every dtype of parameter, so that `apply_updates` lands on `round(w)`.

    Args:
      inner: the whole optimizer, with its learning rate. Its averages are float32.
      form: "master" keeps `w` in float32, 4 bytes a parameter. "split" keeps the rest `w - p` in 8 bits, 1
        byte, rounded stochastically. "kahan" keeps it in the parameter's dtype, 2 bytes. Both count in gaps
        between neighbors. "stochastic" keeps nothing, and `round` chooses between two neighbors without bias.

    Parameters in float32 and wider pass through. Where something else changes a parameter between two steps,
    the weight follows it. Nothing may follow this stage in a chain.
    Source: Zamirai et al. 2020, arXiv:2010.06192, for "kahan" and "stochastic".

    >>> import gradflow as gf
    >>> print(gf.master_params(gf.adamw(1e-3), "split"))
    master_params(adamw(0.001), form='split')
    """
    if form not in FORMS:
        raise ValueError(
            f"master_params: argument 'form' must be one of {', '.join(FORMS)}; got {describe(form)}"
        )

    def init(params: Params) -> OptState:
        kept = jax.tree.map(lambda p: _first(form, p), params)
        inner_state = inner.init(jax.tree.map(widen_leaf, params))
        return MasterParamsState(kept, zero_scalar(params, np.uint32), inner_state)

    def update(
        updates: Updates, state: MasterParamsState, params: Params, **extra: Any
    ) -> tuple[Updates, MasterParamsState]:
        check_like("updates", updates, "params", params)
        check_like("params", params, "state", state.weights)
        leaves, structure = jax.tree.flatten(params, is_leaf=is_absent)
        kept = jax.tree.leaves(state.weights, is_leaf=is_absent)
        narrow = [i for i, p in enumerate(leaves) if not is_absent(p) and p.dtype in _NARROW]
        wide = list(leaves)
        rows: list[Any] = [_row(leaves[i], kept[i]) for i in narrow]
        for i, w in zip(narrow, call_in_groups(_widen(form), rows), strict=True):
            wide[i] = w
        given = jax.tree.map(widen_leaf, updates)
        extra = inner_arguments(
            extra,
            lambda grad: jax.tree.map(widen_leaf, grad),
            lambda weights: tree.cast_like(weights, params),
        )
        changes, inner_state = inner.update(
            given, state.inner_state, jax.tree.unflatten(structure, wide), **extra
        )
        out = jax.tree.leaves(changes, is_leaf=is_absent)
        moved = [i for i in narrow if not is_absent(out[i])]
        rows = [(out[i], wide[i], np.uint32(i), *_row(leaves[i], kept[i])) for i in moved]
        for i, (u, rest) in zip(moved, call_in_groups(_land(form), rows, state.seed), strict=True):
            out[i] = u
            kept[i] = MaskedNode() if rest is None else rest
        weights = jax.tree.unflatten(structure, kept)
        return jax.tree.unflatten(structure, out), MasterParamsState(
            weights, state.seed + np.uint32(1), inner_state
        )

    return init, update


def _first(form: str, p: Any) -> Any:
    kept = first_kept(form, p) if p.dtype in _NARROW else None
    return MaskedNode() if kept is None else kept


def _row(p: jax.Array, kept: Any) -> LeafTuple:
    return (p,) if is_absent(kept) else (p, kept)


@functools.cache
def _widen(form: str) -> Callable[[LeafTuple], jax.Array]:
    def widen_weights(row: LeafTuple) -> jax.Array:
        p, *kept = row
        return FORMS[form].wide(p, kept[0] if kept else None)

    return jax.jit(widen_weights)


@functools.cache
def _land(form: str) -> Callable[[LeafTuple, jax.Array], tuple[jax.Array, Any]]:
    def land_weights(row: LeafTuple, seed: jax.Array) -> tuple[jax.Array, Any]:
        u, w, index, p, *kept = row
        own = seed + index * np.uint32(0x9E3779B1)
        landed, rest = FORMS[form].land(w + u.astype(jnp.float32), p, kept[0] if kept else None, own)
        rest = None if rest is None else with_sharding_of(rest, p)
        return with_sharding_of(landed - p.astype(jnp.float32), p), rest

    return jax.jit(land_weights)
