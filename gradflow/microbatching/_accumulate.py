"""Accumulation of the results of pieces into one result."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import compute_dtype, is_inexact


class AccumulationType(enum.Enum):
    """How the results of the pieces are combined.

    SUM and MEAN add in float32 or wider; RUNNING_MEAN updates `m <- m + (x - m) / (i + 1)`, which
    cannot overflow. Means are over the pieces that ran. Means of integers and booleans are float32,
    and sums of booleans are counts. CONCAT joins along axis 0, or stacks scalars.
    """

    MEAN = enum.auto()
    SUM = enum.auto()
    RUNNING_MEAN = enum.auto()
    CONCAT = enum.auto()


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """A custom accumulation: `carry = init(shapes)`, `carry = update(carry, x_i, i)`, `finalize(carry)`.

    `init` gets the result of a piece as a tree of `jax.ShapeDtypeStruct`. `aggregate` reduces results
    with the rows of one piece along axis 0 to the result of the piece. Only `micro_vmap` and
    `micro_grad` call it, before `update`.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    finalize: Callable[[Any], Any]
    aggregate: Callable[[Any], Any]


class Rule(NamedTuple):
    """An accumulator for one subtree of the results, whose shapes are passed to `finalize`."""

    reduce: Callable[[Any], Any]
    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    finalize: Callable[[Any, Any, Any], Any]


def _same(x: Any) -> Any:
    return x


def rule_for(kind: Any, pieces: int, by_rows: bool) -> Rule:
    if isinstance(kind, Accumulator):

        def finish(carry: Any, like: Any, ran: Any) -> Any:
            return kind.finalize(carry)

        return Rule(kind.aggregate if by_rows else _same, kind.init, kind.update, finish)
    if kind is AccumulationType.CONCAT:
        return _concatenation(pieces)
    mean = kind is not AccumulationType.SUM

    def reduce_leaf(x: jax.Array) -> jax.Array:
        x = x.astype(_dtypes(x.dtype, mean)[0])
        if not by_rows:
            return x
        # Not jnp.mean, which is NaN for an empty batch.
        total = jnp.sum(x, axis=0, dtype=x.dtype)
        return total / max(x.shape[0], 1) if mean else total

    def add(total: jax.Array, x: jax.Array, i: jax.Array) -> jax.Array:
        if kind is AccumulationType.RUNNING_MEAN:
            # The difference of halves is finite.
            return total + (x / 2 - total / 2) / ((i + 1).astype(jnp.float32) / 2).astype(total.dtype)
        return total + x

    def finish_leaf(total: jax.Array, like: Any, ran: Any) -> Any:
        if kind is AccumulationType.MEAN:
            total = total / jnp.maximum(ran, 1).astype(jnp.float32).astype(total.dtype)
        return total.astype(_dtypes(like.dtype, mean)[1])

    return Rule(
        lambda tree: jax.tree.map(reduce_leaf, tree),
        lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
        lambda carry, tree, i: jax.tree.map(lambda c, x: add(c, x, i), carry, tree),
        lambda carry, like, ran: jax.tree.map(lambda c, x: finish_leaf(c, x, ran), carry, like),
    )


def _dtypes(dtype: np.dtype, mean: bool) -> tuple[Any, Any]:
    """The dtypes in which results of `dtype` are added, and in which they are returned."""
    if is_inexact(dtype):
        return compute_dtype(dtype), dtype
    if mean:
        return jnp.float32, jnp.float32
    return (jnp.int32, jnp.int32) if dtype.kind == "b" else (dtype, dtype)


def _concatenation(pieces: int) -> Rule:
    # Row j of piece i is row j * pieces + i of the whole: position [j, i] of the store.
    def store(x: Any) -> jax.Array:
        return jnp.zeros((*x.shape[:1], pieces, *x.shape[1:]), x.dtype)

    def put(stored: jax.Array, x: jax.Array, i: Any) -> jax.Array:
        new: jax.Array = jax.lax.dynamic_update_index_in_dim(stored, x, i, min(x.ndim, 1))
        return new

    def join(stored: jax.Array, x: jax.ShapeDtypeStruct) -> jax.Array:
        if x.ndim == 0:
            return stored
        return stored.reshape(stored.shape[0] * pieces, *x.shape[1:])

    return Rule(
        _same,
        lambda like: jax.tree.map(store, like),
        lambda carry, tree, i: jax.tree.map(lambda c, x: put(c, x, i), carry, tree),
        lambda carry, like, ran: jax.tree.map(join, carry, like),
    )


def subtrees(name: str, prefix: Any, tree: Any, accumulator: Any) -> list[Any]:
    """The part of `tree` under each leaf of the accumulator."""
    try:
        found: list[Any] = prefix.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{name}: argument 'accumulator' must be a prefix of the tree that the function returns,"
            f" {jax.tree.structure(tree)}; got {jax.tree.structure(accumulator)}"
        ) from error
    return found
