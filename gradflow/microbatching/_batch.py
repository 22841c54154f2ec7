"""Arguments with a batch axis: how to find them, measure the axis and split it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import Number, checked
from gradflow._errors import describe
from gradflow.tree._paths import path_string, show

Batch = list[tuple[str, Any, int]]  # name of the argument in errors, its tree, its batch axis
SIZE = Number(1, whole=True, static=True)


@checked(microbatch_size=SIZE, axis=Number(whole=True, static=True))
def reshape_batch_axis(tree: Any, microbatch_size: int, axis: int = 0) -> Any:
    """Splits the batch axis of every leaf into `(number of pieces, microbatch_size)`.

    Element `[i, j]` is row `j * pieces + i`. `axis` may be negative. Raises ValueError naming
    the leaf unless all axes have the same size, a multiple of `microbatch_size`.
    """
    name = "reshape_batch_axis"
    size, axis = int(microbatch_size), int(axis)
    total = batch_size(name, [("tree", tree, axis)])
    pieces = count_pieces(name, total, size)

    def split(leaf: Any) -> jax.Array:
        where = axis % leaf.ndim
        return jnp.swapaxes(split_axis(leaf, size, pieces, where), where, where + 1)

    return jax.tree.map(split, tree)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One or several positions, axes or names as a tuple."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def pick_batched(
    name: str,
    numbers: Sequence[int],
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[tuple[Any, Any]]:
    """The arguments with a batch axis, by position or keyword."""
    picked: list[tuple[Any, Any]] = []
    for i in numbers:
        if not -len(args) <= i < len(args):
            raise TypeError(
                f"{name}: argument {i}, which has a batch axis, must be passed by position; got"
                f" {len(args)} positional arguments"
            )
        picked.append((i % len(args), args[i]))
    for key in names:
        if key not in kwargs:
            raise TypeError(
                f"{name}: argument {key!r}, which has a batch axis, must be passed by keyword; got"
                f" {', '.join(kwargs) or 'no keywords'}"
            )
        picked.append((key, kwargs[key]))
    return picked


def batch_size(name: str, batch: Batch) -> int:
    size = None
    for label, tree, axis in batch:
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            where = f"{label}, leaf {show(path_string(path))}" if path else label
            rank = np.ndim(leaf) if hasattr(leaf, "shape") else 0
            if not -rank <= axis < rank:
                raise ValueError(f"{name}: {where} must have a batch axis {axis}; got {describe(leaf)}")
            if size is None:
                first, size = where, leaf.shape[axis]
            elif leaf.shape[axis] != size:
                raise ValueError(
                    f"{name}: batch axes must have one size; got {size} in {first} and"
                    f" {leaf.shape[axis]} in {where}"
                )
    if size is None:
        raise ValueError(f"{name}: one argument at least must have a batch axis; got no arrays")
    return int(size)


def count_pieces(name: str, total: int, size: int) -> int:
    if total % size:
        raise ValueError(
            f"{name}: argument 'microbatch_size' must divide the {total} rows of the batch; got {size}. "
            f"{total} is not divisible by {size}"
        )
    return total // size


def split_axis(leaf: Any, size: int, pieces: int, axis: int) -> jax.Array:
    """The batch axis as `(rows of a piece, pieces)`: no data moves."""
    x: jax.Array = jnp.asarray(leaf)
    return x.reshape(*x.shape[:axis], size, pieces, *x.shape[axis + 1 :])
