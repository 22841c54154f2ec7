"""Calls on packed trees of stages that need unpacked ones."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gradflow.packed._pack import Packed, abstract_tree, pack, pack_all, unpack, unpack_all


def call_unpacked(update: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an update that needs unpacked trees, so that it can be called with packed ones."""

    def unpacked_update(updates: Packed, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        given = {name: _for_trees(value, updates) for name, value in extra.items()}
        new, new_state = update(unpack(updates), unpack_all(state), unpack_all(params), **given)
        same = jax.tree.map(np.shape, new) == jax.tree.map(np.shape, abstract_tree(updates))
        return pack(new, updates if same else None), pack_all(new_state, updates.layout.structure)

    return unpacked_update


def init_unpacked(init: Callable[..., Any], params: Packed) -> Any:
    """The packed state, for packed parameters, of a stage that needs unpacked ones."""
    return pack_all(init(unpack(params)), params.layout.structure)


def _for_trees(value: Any, like: Packed) -> Any:
    """An extra argument, unpacked; a function of the parameters is still called with packed ones."""
    if not (callable(value) and jax.tree_util.all_leaves([value])):
        return unpack_all(value)

    @functools.wraps(value)
    def call(*args: Any, **kwargs: Any) -> Any:
        structure = like.layout.structure
        packed = [pack(a, like) if jax.tree.structure(a) == structure else a for a in args]
        return unpack_all(value(*packed, **kwargs))

    return call
