"""Recomputing a decomposition only on the steps where it is due."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, FUNCTION, REAL, checked
from gradflow._dtypes import is_inexact
from gradflow._kernel_hints._placement import row_major
from gradflow._platform import by_platform
from gradflow.tree._structure import explain_trees

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
    old = jax.tree.map(jnp.asarray, old)
    return only_where(due, finite_or_old(compute), old, *operands)


def only_where(due: Any, compute: Callable[..., T], old: T, *operands: Any) -> T:
    """`refresh` that takes every new value, for a `compute` that checks each of its parts itself.

    On a GPU it is a loop of at most one turn. XLA copies there what a branch keeps: SOAP copied all bases at
    every step. Decompositions work on columns, so without `row_major` all bases were also transposed.
    """
    due, old, operands = jax.lax.stop_gradient((due, old, operands))

    def branch(due: Any, old: Any, operands: Any) -> Any:
        return jax.lax.cond(due, lambda old, operands: compute(old, *operands), _kept, old, operands)

    def loop(due: Any, old: Any, operands: Any) -> Any:
        def turn(carry: Any) -> Any:
            return jnp.zeros_like(due), row_major(compute(*_rows_first((carry[1], *operands))))

        return jax.lax.while_loop(lambda carry: carry[0], turn, (due, old))[1]

    @jax.custom_batching.custom_vmap
    def run(due: Any, old: Any, operands: Any) -> Any:
        return by_platform(due, old, operands, cpu=branch, accelerator=loop, tpu=branch)

    @run.def_vmap
    def mapped(size: int, is_mapped: Any, *values: Any) -> Any:
        # A choice by platform under `vmap` would stay in the program.
        one_by_one = jax.custom_batching.sequential_vmap(branch)
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, tuple(is_mapped))
        return jax.vmap(one_by_one, axes, axis_size=size)(*values), jax.tree.map(lambda _: True, values[1])

    result: T = run(jnp.asarray(due).astype(bool), old, operands)
    return result


def _rows_first(trees: T) -> T:
    """The numbers among the leaves row after row; left to XLA, operands of a decomposition are transposed."""
    leaves, structure = jax.tree.flatten(trees)
    places = [i for i, x in enumerate(leaves) if is_inexact(x.dtype)]
    for i, x in zip(places, row_major([leaves[i] for i in places]), strict=True):
        leaves[i] = x
    result: T = jax.tree.unflatten(structure, leaves)
    return result


def _kept(old: T, operands: Any) -> T:
    return old


def _check_alike(new: Any, old: Any) -> None:
    message = "refresh: argument 'compute' must return a tree like 'old'; got "
    structure: Any = jax.tree.structure(new)
    if structure != jax.tree.structure(old):
        raise ValueError(message + explain_trees("the result", new, "'old'", old))
    for n, o in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        if np.shape(n) != np.shape(o):
            raise ValueError(f"{message}shape {np.shape(n)} where 'old' has {np.shape(o)}")


def finite_or_old(compute: Callable[..., T]) -> Callable[..., T]:
    """`compute(old, *operands)`, or `old` where any of its numbers is not finite."""

    def taken(old: Any, *operands: Any) -> Any:
        new = compute(old, *operands)
        _check_alike(new, old)
        finite = jnp.ones((), bool)
        for leaf in jax.tree.leaves(new):
            if is_inexact(leaf.dtype):
                # The sum is zero or NaN. A sum is compiled faster than a conjunction.
                finite = finite & (jnp.sum(leaf * 0) == 0)
        kept: T = jax.tree.map(lambda n, o: jnp.where(finite, n.astype(o.dtype), o), new, old)
        return kept

    return taken
