"""Figures of Newton-Schulz and Muon that are to hold: `python -m benchmarks.frontier --bars`.

In processor time, which leaves out what other programs took, in turns.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from benchmarks.measure import Ratio, ratio_of, turns

TURNS = 15
LAYERS = {f"{name}{i}": shape for name, shape in (("a", (512, 512)), ("b", (512, 2048))) for i in range(6)}


def against(ours: Callable[[], Any], peer: Callable[[], Any]) -> Ratio:
    """The peer's processor time over ours."""
    return ratio_of(*turns([ours, peer], TURNS, clock=time.process_time))


def orthonormal(shape: tuple[int, int]) -> jax.Array:
    """A matrix whose products with itself neither grow nor vanish."""
    values = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(np.linalg.svd(values, full_matrices=False)[2], jnp.float32)


def gram_form(short: int, long: int) -> Ratio:
    """The time of the standard form over that of the Gram form."""
    x = orthonormal((short, long))
    gram, standard = (
        jax.jit(functools.partial(gf.linalg.newton_schulz, gram=form)) for form in (True, False)
    )
    return against(lambda: gram(x), lambda: standard(x))


def products(x: jax.Array) -> jax.Array:
    """The products of five steps of Newton-Schulz, without anything else."""
    if x.shape[1] < 2 * x.shape[0]:
        for _ in range(5):
            r = x @ x.T
            x = (r @ r) @ x
        return x
    for steps in (3, 2):
        r = x @ x.T
        q = r @ r
        for _ in range(steps - 1):
            r = q @ (r @ q)
            q = q @ (r @ r)
        x = q @ x
    return x


def muon_rate() -> Ratio:
    """The time of the bare products of a step of Muon over that of the step."""
    params = {name: orthonormal(shape) for name, shape in LAYERS.items()}
    tx = gf.muon(1e-3)
    step = jax.jit(tx.update)
    state = jax.block_until_ready(tx.init(params))
    bare = jax.jit(lambda params: jax.tree.map(products, params))
    return against(lambda: step(params, state, params), lambda: bare(params))


def lines() -> Iterator[str]:
    """One line of a Markdown table for each figure."""
    yield "| figure | value | middle half | bar |"
    yield "|---|---|---|---|"
    for short in (256, 512):
        found = gram_form(short, 4 * short)
        name = f"Gram form of {short} x {4 * short}: the standard form's time / its time"
        yield f"| {name} | {found.ratio:.2f} | {found.low:.2f} - {found.high:.2f} | 1.4 |"
    found = muon_rate()
    name = "Muon on six of 512 x 512 and of 512 x 2048: its bare products' time / its step's"
    yield f"| {name} | {found.ratio:.2f} | {found.low:.2f} - {found.high:.2f} | 0.9 |"
