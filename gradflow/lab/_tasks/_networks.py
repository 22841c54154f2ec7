"""The small network that the tasks train."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradflow.lab._tasks._task import Params


def mlp_init(*sizes: int) -> Callable[[jax.Array], Params]:
    """Returns the initializer of `mlp`: weights of variance 2 / (fan in + fan out), zero biases.

    Source: Glorot & Bengio 2010.
    """

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
    """A fully connected network without an activation after its last layer."""
    for i, layer in enumerate(layers):
        x = x @ layer["kernel"]
        x = x + jnp.broadcast_to(layer["bias"], x.shape)
        x = activation(x) if i < len(layers) - 1 else x
    return x
