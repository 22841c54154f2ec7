"""Measures packed trees, one buffer per dtype, in programs of many leaves."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.limit import limits
from benchmarks.measure import against_limits, interleaved
from benchmarks.programs import Program, arrays, compared, shapes
from benchmarks.rows import Row
from benchmarks.small import calls_row
from benchmarks.steps import PAIRS
from gradflow.packed import pack, unpack


def _descending(tx: Any, apply: Callable[..., Any], leaves: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns a step that computes the gradient of a residual network whose layers are the leaves."""

    def loss(params: Any, batch: Any) -> Any:
        for weights in jax.tree.leaves(leaves(params)):
            batch = batch + 0.01 * jnp.tanh(batch @ weights)
        return jnp.mean(batch * batch)

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return apply(params, updates), state

    return step


def packed(quick: bool, every: bool) -> Iterator[Row]:
    """Measures packed parameters against Optax's leaves: calls, a step, and a whole training step.

    The step gets packed gradients from outside; the network unpacks its parameters and packs their gradient.
    """
    ours, peer = (make() for make in PAIRS["clip + adamw"])
    name = "clip + adamw, packed"
    for leaves in (100,) if quick else (100, 1000):
        like = shapes(leaves, 4)
        both = [Program(ours, gf.apply_updates, pack(like)), Program(peer, optax.apply_updates, like)]
        yield calls_row(name, both, leaves)
    leaves, size, runs = (100, 10_000, 10) if quick else (1000, 10_000, 20)
    like = shapes(leaves, size)
    both = [Program(ours, gf.apply_updates, pack(like)), Program(peer, optax.apply_updates, like)]
    ready = [program.start() for program in both]
    found = limits(both[0].moved + 4 * leaves * size)  # the norm reads the gradient once more
    ratios, of_limits = against_limits(ready[0], ready[1:], found, runs)
    yield Row(name, f"step, {leaves} x {size:,}", ratios[0], limits=of_limits or None, exact=compared(both))
    layers = 50 if quick else 200
    for size in (100, 10_000):
        like = shapes(layers, size)
        both = [
            Program(ours, gf.apply_updates, pack(like), step=_descending(ours, gf.apply_updates, unpack)),
            Program(peer, optax.apply_updates, like, step=_descending(peer, optax.apply_updates, dict)),
        ]
        for program in both:
            program.start().grads = arrays(jax.ShapeDtypeStruct((64, math.isqrt(size)), jnp.float32))
        ratio = interleaved(*(program.as_users_call for program in both), runs)
        yield Row(name, f"whole step, {layers} layers of {size:,}", ratio)
