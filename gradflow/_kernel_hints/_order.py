"""The order of XLA's kernels: which results are written before others are computed."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from gradflow._kernel_hints._identity import hidden_false, may_link, same_values
from gradflow._platform import by_platform

T = TypeVar("T")


def cpu_barrier(operands: T) -> T:
    """An optimization barrier on a CPU. Elsewhere it would end a kernel, so there it is left out."""
    result: T = by_platform(operands, cpu=jax.lax.optimization_barrier, accelerator=lambda x: x)
    return result


def gpu_barrier(operands: T) -> T:
    """An optimization barrier on a GPU: what is before it is written, and sums after it read it again.

    A GPU's kernel that adds up cannot write where it reads. New moments would be copied to the old ones: a
    step of MoMo-Adam held a model of scratch memory.
    """
    same = lambda x: x  # noqa: E731
    result: T = by_platform(operands, cpu=same, accelerator=jax.lax.optimization_barrier, tpu=same)
    return result


def tpu_barrier(operands: T) -> T:
    """An optimization barrier on a TPU: what is before it is one kernel, what comes after it another.

    Each array has its own: a common one would make all of them vary along the same mesh axes.
    """
    same = lambda x: x  # noqa: E731
    barriers = functools.partial(jax.tree.map, jax.lax.optimization_barrier)
    result: T = by_platform(operands, cpu=same, accelerator=same, tpu=barriers)
    return result


def written_after(value: T, *readers: jax.Array) -> T:
    """`value`, arrays which a CPU computes after `readers`: these read the array whose place one takes.

    XLA orders kernels by their operands alone. Without an order it copies an array of the state before it is
    overwritten: one model of scratch memory in ADOPT. Here the value seems to depend on the readers.
    """
    result: T = by_platform(value, *readers, cpu=_after, accelerator=lambda value, *_: value)
    return result


def _after(value: T, *readers: jax.Array) -> T:
    for reader in readers:
        never = hidden_false(reader.real if jnp.iscomplexobj(reader) else reader)
        value = jax.tree.map(functools.partial(_or_zeros, never), value)
    return value


def in_turn(done: Sequence[jax.Array], rest: Sequence[Any]) -> tuple[list[jax.Array], list[Any]]:
    """Both, where one GPU computes what reads the `rest` when the results in `done` are written."""
    if not done or not may_link():
        return list(done), list(rest)
    values = _turns(len(done)).bind(*done, *rest)
    return values[: len(done)], values[len(done) :]


@functools.cache
def _turns(count: int) -> Any:
    """A primitive that returns its operands; on one GPU those after `count` seem to depend on the first."""
    turns = same_values("in_turn", functools.partial(_ordered, count), on_one=True)
    batching.primitive_batchers[turns] = lambda values, axes: (values, axes)
    return turns


def _ordered(count: int, *values: Any) -> list[Any]:
    # A barrier alone orders nothing; it has the results written, and an element of one read back.
    done = list(jax.lax.optimization_barrier(values[:count]))
    first = jax.lax.slice(done[0], (0,) * done[0].ndim, (1,) * done[0].ndim).reshape(())
    never = hidden_false(jnp.real(first))
    return [*done, *(_or_zeros(never, x) for x in values[count:])]


def _or_zeros(never: jax.Array, x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _or_zeros(never, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.where(never, jnp.zeros_like(x), x)
