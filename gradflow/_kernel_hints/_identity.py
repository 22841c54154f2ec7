"""A primitive that returns its operands, and numbers that XLA does not see through."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import ad, batching, mlir

from gradflow import _platform


def same_values(
    name: str,
    on_gpu: Callable[..., list[jax.Array]],
    on_cpu: Callable[..., list[jax.Array]] | None = None,
    *,
    on_one: bool = False,
) -> Any:
    """A primitive that returns its operands, on a GPU or a CPU what `on_gpu` or `on_cpu` makes of them.

    With `on_one` several GPUs return the operands too.
    """
    same = type(jax.lax.add_p)(name)  # the class itself is in jax.extend, which imports for 0.1 s
    same.multiple_results = True
    same.def_impl(lambda *values, **_: list(values))
    same.def_abstract_eval(lambda *values, **_: list(values))
    ad.primitive_jvps[same] = lambda values, tangents, **part: (same.bind(*values, **part), list(tangents))
    batching.primitive_batchers[same] = functools.partial(_bind_if_mapped_alike, same)
    on_any = mlir.lower_fun(on_gpu, multiple_results=True)

    def accelerator(ctx: Any, *values: Any, **part: Any) -> Any:
        return on_any(ctx, *values, **part) if not on_one or _platform.is_one_device(ctx) else list(values)

    mlir.register_lowering(same, accelerator)
    plain = mlir.lower_fun(on_cpu or (lambda *values, **_: list(values)), multiple_results=True)
    cpu = lambda ctx, *values, **part: (plain if _platform.CPU else accelerator)(ctx, *values, **part)  # noqa: E731
    mlir.register_lowering(same, cpu, platform="cpu")
    # A TPU launches no kernels for scalars and copies nothing; optimistic Adam took 1.16 times the cycles.
    mlir.register_lowering(same, lambda ctx, *values, **_: list(values), platform="tpu")
    return same


def _bind_if_mapped_alike(
    same: Any, values: Sequence[jax.Array], axes: Sequence[Any], **part: int
) -> tuple[Any, Sequence[Any]]:
    results = list(values)
    for axis in dict.fromkeys(axes):
        places = [place for place, own in enumerate(axes) if own == axis]
        bound = same.bind(*[values[place] for place in places], **part)
        for place, value in zip(places, bound, strict=True):
            results[place] = value
    return results, axes


def may_link() -> bool:
    """Whether a value may seem to depend on others. In shard_map it would vary along their axes."""
    return not jax.sharding.get_abstract_mesh().manual_axes


def hidden_false(x: jax.Array, odd: int = 1) -> jax.Array:
    """False, by a test whose result XLA does not know: no odd number is 0."""
    if x.dtype == np.bool_:
        x = x.astype(np.int32)
    bits = np.dtype(f"int{8 * x.dtype.itemsize}")
    if x.dtype != bits:
        x = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), bits)
    return (x | np.full(x.shape, odd, bits)) == np.zeros(x.shape, bits)


def within_infinities(*values: jax.Array) -> list[jax.Array]:
    """The same numbers, results of an operation that XLA keeps; it removes others, as a product with 1."""
    infinity = [np.asarray(np.inf, value.dtype) for value in values]
    return [jax.lax.clamp(-high, value, high) for value, high in zip(values, infinity, strict=True)]
