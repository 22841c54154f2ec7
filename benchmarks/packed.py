"""One buffer for each dtype: what it does for programs of many leaves."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.limit import limits
from benchmarks.measure import against_limits
from benchmarks.programs import Program, compared, shapes
from benchmarks.rows import Row
from benchmarks.small import calls_row
from benchmarks.steps import PAIRS
from gradflow.packed import pack, unpack


def _descending(tx: Any, apply: Callable[..., Any], leaves: Callable[[Any], Any]) -> Callable[..., Any]:
    """A step that computes its gradient, of half the sum of squares of the leaves: the least loss."""

    def loss(params: Any) -> Any:
        return 0.5 * sum(jnp.sum(x * x) for x in jax.tree.leaves(leaves(params)))

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return apply(params, updates), state

    return step


def packed(quick: bool, every: bool) -> Iterator[Row]:
    """Packed parameters against Optax's tree of leaves: calls, a step, and one with its gradient.

    The step has packed gradients from outside; the one with its gradient unpacks the parameters for the loss.
    """
    ours, peer = (make() for make in PAIRS["clip + adamw"])
    for leaves in (100,) if quick else (100, 1000):
        like = shapes(leaves, 4)
        both = [Program(ours, gf.apply_updates, pack(like)), Program(peer, optax.apply_updates, like)]
        yield calls_row("clip + adamw, packed", both, leaves)
    leaves, size, runs = (100, 10_000, 10) if quick else (1000, 10_000, 10)
    like = shapes(leaves, size)
    steps = {
        "step": (None, None),
        "gradient and step": (
            _descending(ours, gf.apply_updates, unpack),
            _descending(peer, optax.apply_updates, lambda params: params),
        ),
    }
    for figure, (mine, theirs) in steps.items():
        both = [
            Program(ours, gf.apply_updates, pack(like), step=mine),
            Program(peer, optax.apply_updates, like, step=theirs),
        ]
        ready = [program.start() for program in both]
        # The norm reads the gradient once more.
        found = limits(both[0].moved + 4 * leaves * size) if figure == "step" else []
        ratios, of_limits = against_limits(ready[0], ready[1:], found, runs)
        name = f"{figure}, {leaves} x {size:,}"
        yield Row("clip + adamw, packed", name, ratios[0], limits=of_limits or None, exact=compared(both))
