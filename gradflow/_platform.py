"""The one place where the code of a CPU and that of an accelerator part."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

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
