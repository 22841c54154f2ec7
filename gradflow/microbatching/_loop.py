"""The loop over the pieces of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._errors import describe
from gradflow.microbatching._accumulate import AccumulationType, Accumulator, rule_for, subtrees
from gradflow.microbatching._batch import Batch, batch_size, count_pieces, split_axis


def accumulate(
    name: str,
    call: Callable[[list[Any]], Any],
    batch: Batch,
    size: int | None,
    accumulator: Any,
    num_real: Any,
    by_rows: bool,
) -> Any:
    """Accumulates `call` over all pieces; with `by_rows` its results have one row per row of a piece."""
    total = batch_size(name, batch)
    size = max(total, 1) if size is None else int(size)
    pieces = count_pieces(name, total, size)
    ran = pieces if num_real is None else num_real if isinstance(num_real, jax.Array) else int(num_real)
    if isinstance(ran, jax.Array):
        ran = jnp.clip(ran, 0, pieces)
    elif ran > pieces:
        raise ValueError(f"{name}: argument 'num_real_microbatches' must be <= {pieces}; got {ran}")

    flat = [(x, axis % x.ndim) for _, tree, axis in batch for x in jax.tree.leaves(tree)]
    treedef = jax.tree.structure([tree for _, tree, _ in batch])
    leaves = [split_axis(x, size, pieces, axis) for x, axis in flat]

    def pick(i: Any) -> list[jax.Array]:
        return [
            jax.lax.dynamic_index_in_dim(x, i, axis + 1, keepdims=False)
            for x, (_, axis) in zip(leaves, flat, strict=True)
        ]

    # One jit, so that `eval_shape` and the loop trace the function once.
    evaluate = jax.jit(lambda piece: call(jax.tree.unflatten(treedef, piece)))
    like = [
        jax.ShapeDtypeStruct(x.shape[: axis + 1] + x.shape[axis + 2 :], x.dtype)
        for x, (_, axis) in zip(leaves, flat, strict=True)
    ]
    shapes = jax.eval_shape(evaluate, like)
    prefix: Any = jax.tree.structure(accumulator)
    kinds = jax.tree.leaves(accumulator)
    rules = [rule_for(kind, pieces, by_rows) for kind in kinds]
    parts = subtrees(name, prefix, shapes, accumulator)

    def body(i: Any, carries: list[Any]) -> list[Any]:
        values = prefix.flatten_up_to(evaluate(pick(i)))
        return [
            rule.update(carry, rule.reduce(value), i)
            for rule, carry, value in zip(rules, carries, values, strict=True)
        ]

    carries = [rule.init(jax.eval_shape(rule.reduce, part)) for rule, part in zip(rules, parts, strict=True)]
    if pieces == 1 and num_real is None:
        carries = body(jnp.int32(0), carries)
    elif pieces > 0:
        carries = jax.lax.fori_loop(0, ran, body, carries)
    results = [
        rule.finalize(carry, part, ran) for rule, carry, part in zip(rules, carries, parts, strict=True)
    ]
    return jax.tree.unflatten(prefix, results)


def check_arguments(name: str, size: Any, accumulator: Any, num_real: Any) -> None:
    """Checks of the arguments that depend on each other, and of the accumulators."""
    for kind in jax.tree.leaves(accumulator):
        if not isinstance(kind, Accumulator | AccumulationType):
            raise TypeError(
                f"{name}: argument 'accumulator' must be an AccumulationType, an Accumulator or a"
                f" tree of them; got {describe(kind)}"
            )
    if num_real is not None and size is None:
        raise ValueError(
            f"{name}: argument 'microbatch_size' must be an int with 'num_real_microbatches'; got None"
        )
    if isinstance(num_real, jax.Array) and not jnp.issubdtype(num_real.dtype, jnp.integer):
        raise TypeError(
            f"{name}: argument 'num_real_microbatches' must be an integer scalar; got {describe(num_real)}"
        )
