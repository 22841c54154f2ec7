"""Rules over quantized leaves: block by block on one CPU, GPU or TPU, or on each that has whole blocks.

XLA writes the new averages out in float32 to find the largest number of each block. A step of 8-bit AdamW
took 7 times as long as float32's on a CPU, and 4 models of scratch memory on a TPU, 2 on a GPU. Block by
block it is one pass. `python -m benchmarks.precision` has the figures of a CPU, `python -m benchmarks.aot`
those of a GPU and a TPU.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gradflow._platform import on_one_device
from gradflow._rules._block_kernel import fits, kernel
from gradflow._rules._block_loop import loop
from gradflow._rules._block_triton import gpu_kernel, tiles
from gradflow._rules._blockwise import Program, layout_of, part_of
from gradflow._rules._division import division_of, on_each_device
from gradflow._rules._elementwise import is_elementwise

_FLOAT32 = np.dtype(np.float32)


def run_quantized(
    rule: Callable[..., tuple[Any, ...]],
    general: Callable[..., tuple[Any, ...]],
    leaves: tuple[Any, ...],
    scalars: dict[str, Any],
) -> tuple[Any, ...]:
    """`general(leaves, scalars)`, block by block where that is possible: the same numbers with less memory.

    `rule(arrays, scalars)` is the arithmetic alone. It goes block by block only if it is elementwise.
    """
    arrays = [x for x in jax.tree.leaves(leaves) if x.ndim]
    division = division_of(arrays)
    here = jax.sharding.get_abstract_mesh()
    known = division is not None or not (here.manual_axes or here.explicit_axes)
    layout = layout_of(leaves, division) if known else None
    body = _positional(rule, len(leaves), tuple(scalars))
    types = [*((leaf.shape, _FLOAT32) for leaf in leaves), *((x.shape, x.dtype) for x in scalars.values())]
    if layout is None or not is_elementwise(body, *types):
        return general(leaves, scalars)
    results = jax.eval_shape(general, leaves, scalars)
    program = Program(body, layout, tuple(map(part_of, leaves)), len(results))
    operands, structure = jax.tree.flatten((leaves, tuple(scalars.values())))
    whole = _named(general, tuple(scalars))

    def for_devices(run: Callable[..., Any]) -> Callable[..., list[Any]]:
        if division is not None:
            run = on_each_device(run, division, leaves[0].shape, program.results)
        return _flat(run, structure)

    flat = on_one_device(
        *operands,
        general=_flat(whole, structure),
        cpu=for_devices(loop(program)),
        gpu=for_devices(gpu_kernel(program, tile)) if (tile := tiles(layout)) else _flat(whole, structure),
        tpu=for_devices(kernel(program)) if fits(layout) else _flat(whole, structure),
        each=division is not None,
    )
    return tuple(jax.tree.unflatten(jax.tree.structure(results), flat))


@functools.lru_cache(maxsize=1024)
def _positional(
    rule: Callable[..., Any], count: int, names: tuple[str, ...]
) -> Callable[..., tuple[Any, ...]]:
    """The rule with arrays and scalars as operands."""

    def body(*operands: Any) -> tuple[Any, ...]:
        result: tuple[Any, ...] = rule(operands[:count], dict(zip(names, operands[count:], strict=True)))
        return result

    return body


@functools.lru_cache(maxsize=1024)
def _named(general: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., tuple[Any, ...]]:
    def whole(leaves: tuple[Any, ...], scalars: tuple[Any, ...]) -> tuple[Any, ...]:
        result: tuple[Any, ...] = general(leaves, dict(zip(names, scalars, strict=True)))
        return result

    return whole


@functools.lru_cache(maxsize=1024)
def _flat(function: Callable[..., Any], structure: Any) -> Callable[..., list[Any]]:
    """A function of leaves and scalars as one of arrays."""

    def flat(*operands: Any) -> list[Any]:
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, operands)))

    return flat
