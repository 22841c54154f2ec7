"""What a training problem is, and the small networks that the built-in ones train."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
Batch = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A training problem.

    - `init(key) -> params`: one start for each seed.
    - `loss_fn(params, batch) -> scalar`: the mean over a batch.
    - `train`, `test`: trees of arrays whose leading axis counts the examples. `test` may be None.
    - `batch_size`: examples in a step; None when `train`'s leading axis counts whole batches already.
    - `target`: the training loss whose first reaching is timed, one for all; None for no target. The
      built-in ones were set by trial runs, low enough that most optimizers get there at different steps; of
      `ode` only those that keep curvature do.
    - `score_fn(params, test) -> scalar`: what `score_name` says, higher is better. May be None.
    - `steps`: how many are taken by default.
    """

    name: str
    init: Callable[[jax.Array], Params]
    loss_fn: Callable[[Params, Batch], jax.Array]
    train: Batch
    batch_size: int | None = 64
    target: float | None = None
    test: Batch = None
    score_fn: Callable[[Params, Batch], jax.Array] | None = None
    score_name: str = "score"
    steps: int = 500


def mlp_init(*sizes: int) -> Callable[[jax.Array], Params]:
    """Glorot & Bengio 2010: uniform weights of variance 2 / (fan in + fan out), zero biases."""

    def init(key: jax.Array) -> Params:
        layers = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            key, own = jax.random.split(key)
            limit = (6 / (fan_in + fan_out)) ** 0.5
            kernel = jax.random.uniform(own, (fan_in, fan_out), minval=-limit, maxval=limit)
            layers.append({"kernel": kernel, "bias": jnp.zeros((fan_out,), kernel.dtype)})
        return layers

    return init


def mlp(
    layers: Params, x: jax.Array, activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
) -> jax.Array:
    """A fully connected network, without an activation behind its last layer."""
    for i, layer in enumerate(layers):
        x = x @ layer["kernel"]
        x = x + jnp.broadcast_to(layer["bias"], x.shape)
        x = activation(x) if i < len(layers) - 1 else x
    return x
