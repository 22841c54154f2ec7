"""Recomputing a decomposition only on the steps where it is due."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gradflow._checked import ARRAYS, FUNCTION, REAL, checked
from gradflow._dtypes import is_inexact

T = TypeVar("T")


@checked(due=REAL, compute=FUNCTION, old=ARRAYS)
def refresh(due: Any, compute: Callable[..., T], old: T, *operands: Any) -> T:
    """Returns `compute(old, *operands)` where `due` is true, and `old` elsewhere.

    Only the branch that is taken runs, under `vmap` too: a `lax.cond` under `vmap` becomes a select that
    computes both branches, and stacked decompositions can block the threads of XLA's CPU backend, so a batch
    is computed one element after the other. Where the new value is not finite the old one is kept. Nothing is
    differentiated: all operands go through `stop_gradient`.

    Args:
      due: a scalar boolean.
      compute: a function of arrays that closes over none; it returns a tree like `old`.
      old: the tree of arrays that is kept when nothing is due; it is not copied.
      *operands: trees of arrays that `compute` needs besides.
    """
    due, old, operands = jax.lax.stop_gradient((due, old, operands))

    def run(due: Any, old: Any, operands: Any) -> Any:
        return jax.lax.cond(due, _finite_or_old(compute), lambda old, operands: old, old, operands)

    one_by_one: Callable[..., T] = jax.custom_batching.sequential_vmap(run)
    return one_by_one(jnp.asarray(due), old, operands)


def _finite_or_old(compute: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def taken(old: Any, operands: Any) -> Any:
        new = compute(old, *operands)
        finite = jnp.ones((), bool)
        for leaf in jax.tree.leaves(new):
            if is_inexact(leaf.dtype):
                finite = finite & jnp.all(jnp.isfinite(leaf))
        return jax.tree.map(lambda n, o: jnp.where(finite, n.astype(o.dtype), o), new, old)

    return taken
