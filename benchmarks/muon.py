"""Measures Muon on the matrices of six transformer layers, against the rate of a matrix product."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.limit import Limit
from benchmarks.measure import against_limits, interleaved
from benchmarks.programs import both, compared
from benchmarks.rows import Row
from benchmarks.steps import pair


def layers(count: int, width: int) -> Any:
    """Two matrices per layer: attention's and the wide one of the MLP."""
    wide = {"attention": (width, width), "mlp": (width, 4 * width)}
    return {
        f"{name}{i}": jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in wide.items()
        for i in range(count)
    }


def operations(like: Any, steps: int = 5) -> int:
    """Floating-point operations of Newton-Schulz on each matrix, without use of symmetry."""
    total = 0
    for leaf in jax.tree.leaves(like):
        short, long = sorted(leaf.shape)
        total += steps * (2 * short * short * long + 2 * short**3 + 2 * short * short * long)
    return total


def product(width: int, dtype: Any = jnp.float32) -> tuple[Any, int]:
    """Returns a square matrix product to time, and its operations."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(width, width)) / np.sqrt(width), dtype) for _ in range(2))
    compiled = jax.jit(jnp.matmul).lower(a, b).compile()
    return functools.partial(compiled, a, b), 2 * width**3


def muon(quick: bool, every: bool) -> Iterator[Row]:
    """Measures a step, and its trace with cold and warm caches."""
    count, width = (2, 256) if quick else (6, 512)
    like = layers(count, width)
    programs = both(*pair("muon"), like)
    exact = compared(programs)
    run, work = product(4 * width if quick else 1536)
    found = [Limit("matmul", run, operations(like) / work)]
    ready = [program.start() for program in programs]
    ratios, of_limit = against_limits(ready[0], ready[1:], found, 8 if quick else 15)
    yield Row("muon", f"step, {count} layers of {width}", ratios[0], limits=of_limit, exact=exact)

    def trace(which: int, leaves: Any, cold: bool) -> None:
        if cold:
            jax.clear_caches()
        _ = both(*pair("muon"), leaves)[which].traced

    for number, cold in ((count, True), (count, False), (8 * count, True)):
        many = layers(number, 16)
        ratio = interleaved(*(functools.partial(trace, i, many, cold) for i in (0, 1)), 7)
        yield Row("muon", f"trace, {number} layers, {'cold' if cold else 'warm'}", ratio)
