"""The size of XLA's kernels: which results one kernel computes, and what it reads."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._kernel_hints._identity import hidden_false, may_link, same_values, within_infinities
from gradflow._platform import by_platform

# Types of what is linked: their bits are an integer's, or they convert to one.
LINKED = (np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.bool_))


def in_one_kernel(values: Sequence[jax.Array]) -> list[jax.Array]:
    """The same scalars, which a GPU computes in one kernel.

    XLA launches a kernel for each scalar result, since it joins only what depends on each other. Here each
    number seems to depend on the one before. With a kernel per leaf, AdamW of 8 leaves launches 9, not 12.
    """
    return list(_link().bind(*values)) if len(values) > 1 and may_link() else list(values)


@functools.cache
def _link() -> Any:
    """A primitive that returns its operands; on a GPU they are linked.

    As `by_platform` it would map all results under `vmap` if one is mapped.
    """
    return same_values("in_one_kernel", _linked)


def _linked(*values: jax.Array) -> list[jax.Array]:
    linked = [values[0]]
    for value in values[1:]:
        linked.append(jax.lax.select(hidden_false(linked[-1]), jnp.zeros_like(value), value))
    return linked


def in_one_array(values: Sequence[Any], part: int = 0) -> list[Any]:
    """The same numbers, of one type, which the kernels of a GPU read from one array.

    XLA joins kernels for leaves of one shape only where they read one array of more than one number. Then
    AdamW of 195 leaves launches 23 kernels, not 196. Another `part` of the leaves reads another array, so
    that its kernels stay apart; one kernel copies the first array for all other parts.
    """
    return list(_array().bind(*values, part=part)) if may_link() else list(values)


@functools.cache
def _array() -> Any:
    """A primitive that returns its operands; on a GPU they are parts of one array."""
    return same_values("in_one_array", _from_array)


def _from_array(*values: jax.Array, part: int = 0) -> list[jax.Array]:
    # One number in an array counts as a scalar. Two that differ may be constants, which need no kernel.
    rows = [jax.lax.expand_dims(value, [0]) for value in values]
    if len(rows) == 1:
        rows.append(jnp.full_like(rows[0], 0.375))
    array = jax.lax.concatenate(rows, 0)
    if part:
        array = jax.lax.select(hidden_false(array, 2 * part + 1), jnp.zeros_like(array), array)
    # Behind a barrier XLA does not replace the parts by what they are made of.
    array = jax.lax.optimization_barrier(array)
    return [jax.lax.index_in_dim(array, place, keepdims=False) for place in range(len(values))]


def in_kernel_of(square: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, which a TPU computes in the kernel that writes `square`, an average that is never negative.

    Without a reason it may compute what both need in two kernels: AdaDelta took 1.46 times the cycles. Here
    the value seems to depend on the average.
    """
    same = lambda _, value: value  # noqa: E731
    return by_platform(square, value, cpu=same, accelerator=same, tpu=_unless_negative)


def _unless_negative(square: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(square < jnp.zeros((), square.dtype), jnp.zeros((), value.dtype), value)


def fused_last(values: Sequence[Any]) -> list[Any]:
    """The same real numbers, which are the last operands of a CPU's kernels.

    XLA compiles equal kernels once, and equality includes the order of operands: the order in which they are
    fused, last computed first. Leaves of a shape share the broadcast of a number. In the first leaf it comes
    between operations on arrays, in the others before all of them. Here an operation on the number itself
    comes before the broadcast, so that the number is fused last in every leaf but the program's first. NAdam
    with 16 leaves of 7 shapes has 26 kernels, not 32 (`kinds` in `python -m benchmarks`).
    """
    return list(_scalar().bind(*values)) if may_link() else list(values)


@functools.cache
def _scalar() -> Any:
    """A primitive that returns its operands; on a CPU each is the result of an operation."""
    return same_values("fused_last", lambda *values: list(values), within_infinities)


def factors_kept(x: jax.Array) -> jax.Array:
    """The same array, a factor of which a GPU's XLA does not move to a number that multiplies the array.

    A normal sample has one, and the deviation times it took a kernel of its own. Complex arrays stay as is.
    """
    if jnp.iscomplexobj(x):
        return x
    same = lambda x: x  # noqa: E731
    return by_platform(x, cpu=same, accelerator=lambda x: within_infinities(x)[0], tpu=same)
