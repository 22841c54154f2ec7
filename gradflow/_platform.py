"""Code that differs between a CPU and an accelerator, chosen as a program is lowered."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

# On these a branch saves memory and time. Elsewhere XLA copies what a branch returns, and a select costs
# nothing where the update reads the old value anyway: MultiSteps of adamw needs 4 models of scratch memory
# on an H100 with a branch, and none with selects (`python -m benchmarks.aot --platform h100`).
CPU = ("cpu",)


def by_platform(
    *operands: Any,
    cpu: Callable[..., Any],
    accelerator: Callable[..., Any],
    tpu: Callable[..., Any] | None = None,
) -> Any:
    """`cpu(*operands)` or `accelerator(*operands)`, as the program is lowered for the one or the other.

    All are traced, and return arrays of the same types. What is not chosen leaves nothing behind. `tpu` is
    for the few places where a TPU and a GPU differ.
    """
    named = {**dict.fromkeys(CPU, cpu), **({} if tpu is None else {"tpu": tpu})}
    return jax.lax.platform_dependent(*operands, default=accelerator, **named)


def on_one_device(
    *operands: Any,
    general: Callable[..., Any],
    cpu: Callable[..., Any],
    gpu: Callable[..., Any],
    tpu: Callable[..., Any],
    each: bool = False,
) -> list[Any]:
    """`general(*operands)`; in a program for one CPU, GPU or TPU, `cpu`, `gpu` or `tpu` of them.

    With `each` these are programs for each device of a mesh, and a program for several has them, too.

    All return lists of arrays of the same types. They come from cached factories, so that equal programs
    are equal. What is not chosen is not traced. Under `vmap` and differentiation it is `general`, and on a
    GPU or TPU also where its language of kernels lacks an operation, or a GPU lacks the language.
    """
    result: list[Any] = _one_device().bind(*operands, general=general, cpu=cpu, gpu=gpu, tpu=tpu, each=each)
    return result


@functools.cache
def _one_device() -> Any:
    choice = type(jax.lax.add_p)("on_one_device")
    choice.multiple_results = True
    choice.def_impl(lambda *operands, general, **_: general(*operands))

    def types(*avals: Any, general: Callable[..., Any], **_: Any) -> list[Any]:
        return list(jax.make_jaxpr(general)(*avals).out_avals)

    def mapped(operands: Sequence[Any], axes: Sequence[Any], *, general: Any, **_: Any) -> Any:
        results = jax.vmap(general, axes)(*operands)
        return results, [0] * len(results)

    def derived(primals: Sequence[Any], tangents: Sequence[Any], *, general: Any, **_: Any) -> Any:
        whole = [
            ad.instantiate_zeros(tangent)
            if jnp.issubdtype(primal.dtype, np.inexact)
            else np.zeros(primal.shape, jax.dtypes.float0)
            for primal, tangent in zip(primals, tangents, strict=True)
        ]
        return jax.jvp(general, tuple(primals), tuple(whole))

    choice.def_abstract_eval(types)
    batching.primitive_batchers[choice] = mapped
    ad.primitive_jvps[choice] = derived

    def lower(kind: str, ctx: Any, *values: Any, each: bool, **programs: Any) -> Any:
        # A program for several devices may hold a part of a block on each.
        program = programs[kind if is_one_device(ctx) or each else "general"]
        return mlir.lower_fun(program, multiple_results=True)(ctx, *values)

    def lower_kernel(kind: str, ctx: Any, *operands: Any, **programs: Any) -> Any:
        try:
            return lower(kind, ctx, *operands, **programs)
        except (ImportError, RuntimeError, ValueError) as error:  # a NotImplementedError is a RuntimeError
            # The language has no expm1. It has `sign` for a given kind of TPU: a process without one, which
            # exports a program, gets a ValueError. From jax 0.12 on that of a GPU is deprecated, and asks for
            # a known kind of GPU.
            _warn_of_whole_arrays(kind, error)
            return lower("general", ctx, *operands, **programs)

    def lower_for_gpu(ctx: Any, *operands: Any, **programs: Any) -> Any:
        kind = "gpu" if _has_triton(ctx.module_context) else "general"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
            return lower_kernel(kind, ctx, *operands, **programs)

    mlir.register_lowering(choice, functools.partial(lower, "general"))
    mlir.register_lowering(choice, functools.partial(lower, "cpu"), platform="cpu")
    mlir.register_lowering(choice, lower_for_gpu, platform="cuda")
    mlir.register_lowering(choice, functools.partial(lower_kernel, "tpu"), platform="tpu")
    return choice


def _warn_of_whole_arrays(kind: str, error: Exception) -> None:
    """Says why a program has no kernel: its results are the same, its memory is not."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    warnings.warn(
        f"a kernel for quantized leaves could not be lowered for a {kind.upper()}, so this program has whole "
        f"arrays in its place, which need more memory; {reason}",
        stacklevel=2,
    )


def _has_triton(module: Any) -> bool:
    """Whether a program is for GPUs from Ampere on. An exported one is for any; jax refuses Triton there."""
    if module.backend is None or module.lowering_parameters.for_export:
        return False
    return all(_capability(device) >= 8 for device in module.backend.devices())


def _capability(device: Any) -> float:
    return float(getattr(device, "compute_capability", 0))


def is_one_device(ctx: Any) -> bool:
    """Whether a program is lowered for one device."""
    return getattr(ctx.module_context.axis_context, "num_devices", None) == 1
