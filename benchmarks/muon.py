"""Muon on the matrices of six transformer layers. `python -m benchmarks.muon [--quick]`."""

import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks.measure import equations, interleaved
from benchmarks.rows import Row, _step


def _layers(count: int, width: int) -> Any:
    rng = np.random.default_rng(0)
    shapes = {"attention": (width, width), "mlp": (width, 4 * width)}
    return {
        f"{name}{i}": jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
        for i in range(count)
    }


class _Running:
    """A compiled step that feeds its donated results back, so that every call is a real step."""

    def __init__(self, tx: Any, apply: Any, params: Any) -> None:
        self.params, self.grads = (jax.tree.map(jnp.copy, params) for _ in range(2))
        self.state = tx.init(self.params)
        self.step = jax.jit(_step(tx, apply), donate_argnums=(0, 1))

    def __call__(self) -> Any:
        self.params, self.state = self.step(self.params, self.state, self.grads)
        return self.params


def muon(quick: bool) -> Iterator[Row]:
    """A step, its trace with and without what an earlier one left in the caches, and its scratch memory."""
    count, width = (2, 256) if quick else (6, 512)
    params = _layers(count, width)
    made = (gf.muon(0.02), gf.apply_updates), (optax.contrib.muon(0.02), optax.apply_updates)
    ratio = interleaved(*(_Running(tx, apply, params) for tx, apply in made), 8 if quick else 20)
    yield Row("muon", f"step, {count} layers of {width}", ratio)

    def trace(which: int, leaves: Any, cold: bool) -> Any:
        tx, apply = made[which]
        if cold:
            jax.clear_caches()
        return jax.jit(_step(tx, apply)).trace(leaves, tx.init(leaves), leaves).jaxpr.jaxpr

    for layers, cold in ((count, True), (count, False), (8 * count, True)):
        many = jax.tree.map(jnp.zeros_like, _layers(layers, 16))
        ratio = interleaved(*(functools.partial(trace, i, many, cold) for i in (0, 1)), 7)
        yield Row("muon", f"trace, {layers} layers, {'cold' if cold else 'warm'}", ratio)
    counts = [equations(trace(i, params, True)) for i in (0, 1)]
    yield Row("muon", f"equations, {count} layers", None, *counts)
    model = sum(x.nbytes for x in jax.tree.leaves(params))
    scratch = []
    for tx, _ in made:
        update = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p), donate_argnums=(0, 1))
        compiled = update.lower(params, tx.init(params), params).compile()
        scratch.append(compiled.memory_analysis().temp_size_in_bytes / model)
    yield Row("muon", "scratch, models", None, *scratch)


if __name__ == "__main__":
    from benchmarks.__main__ import show

    for row in muon("--quick" in sys.argv):
        print(show(row), flush=True)
