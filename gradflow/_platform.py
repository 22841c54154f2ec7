"""The one place where the code of a CPU and that of an accelerator part."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")

# On these a branch saves memory and time. Elsewhere XLA copies what a branch returns, and a select costs
# nothing where the update reads the old value anyway: MultiSteps of adamw needs 4 models of scratch memory
# on an H100 with a branch, and none with selects (`python -m benchmarks.aot --platform h100`).
CPU = ("cpu",)


def by_platform(*operands: Any, cpu: Callable[..., Any], accelerator: Callable[..., Any]) -> Any:
    """`cpu(*operands)` or `accelerator(*operands)`, as the program is lowered for the one or the other.

    Both are traced, and return arrays of the same types. What is not chosen leaves nothing behind.
    """
    return jax.lax.platform_dependent(*operands, default=accelerator, **dict.fromkeys(CPU, cpu))


def cpu_barrier(operands: T) -> T:
    """An optimization barrier on a CPU. Elsewhere it would end a kernel, so there it is left out."""
    result: T = by_platform(operands, cpu=jax.lax.optimization_barrier, accelerator=lambda x: x)
    return result


def written_after(value: jax.Array, *readers: jax.Array) -> jax.Array:
    """`value`, which a CPU computes after `readers`: these read the array whose place it takes.

    XLA orders kernels by their operands alone. Without an order it copies an array of the state before it is
    overwritten: one model of scratch memory in ADOPT. Here the value seems to depend on the readers.
    """
    return by_platform(value, *readers, cpu=_after, accelerator=lambda value, *_: value)


def _after(value: jax.Array, *readers: jax.Array) -> jax.Array:
    for reader in readers:
        real = reader.real if jnp.iscomplexobj(reader) else reader
        value = jnp.where(_never(real), jnp.zeros_like(value), value)
    return value


def in_one_kernel(values: Sequence[jax.Array]) -> list[jax.Array]:
    """The same numbers, which a GPU computes in one kernel.

    XLA launches a kernel for each scalar result, since it joins only what depends on each other. Here each
    number seems to depend on the one before. A step of AdamW with 8 leaves launches 10 kernels, not 11.
    """
    numbers = len(values) > 1 and all(x.shape == () for x in values) and values[0].dtype != np.bool_
    # Inside shard_map a number would seem to vary along the axes of the one before.
    if not numbers or jax.sharding.get_abstract_mesh().manual_axes:
        return list(values)
    return by_platform(list(values), cpu=list, accelerator=_linked)


def _linked(values: list[jax.Array]) -> list[jax.Array]:
    linked = values[:1]
    previous = values[0]
    for value in values[1:]:
        linked.append(jax.lax.select(_never(previous), jnp.zeros_like(value), value))
        previous = previous if value.dtype == np.bool_ else linked[-1]
    return linked


def _never(x: jax.Array) -> jax.Array:
    """False, by a test whose result XLA does not know: no odd number is 0."""
    bits = np.dtype(f"int{8 * x.dtype.itemsize}")
    if x.dtype != bits:
        x = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), bits)
    return (x | np.ones((), bits)) == np.zeros((), bits)
