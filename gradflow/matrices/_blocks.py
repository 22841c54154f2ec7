"""A rule for one matrix on the matrices of a leaf, or of a stack of leaves."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax

from gradflow._rules._leafwise import Rule, Scalars
from gradflow.matrices._matrix import WHOLE, MatrixAxes, to_blocks


def bound(rule: Rule, scalars: Scalars) -> Callable[..., tuple[Any, ...]]:
    """A rule with its scalars, that returns a tuple."""

    def call(*operands: Any) -> tuple[Any, ...]:
        result = rule(*operands, SimpleNamespace(**scalars))
        return result if isinstance(result, tuple) else (result,)

    return call


def on_blocks(
    call: Callable[..., tuple[Any, ...]],
    axes: MatrixAxes,
    shape: tuple[int, ...],
    values: Sequence[Any],
    stacked: Callable[..., Any],
) -> tuple[Any, ...]:
    """`call` on each matrix of a leaf of this shape; `stacked(call)` on each stack of equal ones."""
    if axes == WHOLE:
        return call(*values)
    cut = [isinstance(x, jax.Array) and x.shape == shape for x in values]
    parts = axes.shapes(shape)
    columns: list[Any] = []
    back: Callable[[list[Any]], Any] = list
    for x, is_cut in zip(values, cut, strict=True):
        if is_cut:
            blocks, back = to_blocks(x, axes)
        columns.append(blocks if is_cut else [x] * len(parts) if x is None or len(parts) == 1 else list(x))
    results = [
        (stacked(call) if count > 1 else call)(*(column[i] for column in columns))
        for i, (count, *_) in enumerate(parts)
    ]
    return tuple(
        back(list(made)) if is_cut else made[0] if made[0] is None or len(parts) == 1 else made
        for made, is_cut in zip(zip(*results, strict=True), cut, strict=False)
    )


def on_stacks(
    call: Callable[..., tuple[Any, ...]],
    axes: MatrixAxes,
    sides: tuple[int, ...],
    values: Sequence[Any],
    stacked: Callable[..., Any],
) -> tuple[Any, ...]:
    """`on_blocks` for values that are stacks: of matrices with these sides, and of what belongs to each."""
    count = jax.tree.leaves(list(values))[0].shape[0]
    if count > 1:
        return tuple(
            stacked(call)(*values)
            if axes == WHOLE
            else on_blocks(call, axes, (count, *sides), values, stacked)
        )

    # A stack of one has no axis that counts matrices; in arrays of the matrices' shape, `on_blocks` drops it.
    def has_no_count(x: Any) -> bool:
        return axes != WHOLE and isinstance(x, jax.Array) and x.shape == (count, *sides)

    alone = [x if has_no_count(x) else jax.tree.map(lambda y: y[0], x) for x in values]
    results = call(*alone) if axes == WHOLE else on_blocks(call, axes, (count, *sides), alone, stacked)
    return tuple(
        y if has_no_count(x) else jax.tree.map(lambda z: z[None], y)
        for y, x in zip(results, values, strict=False)
    )
