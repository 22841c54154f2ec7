"""Noise on gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._base import OptState, Pair, Params, Updates, transformation
from gradflow._errors import describe
from gradflow._hyper import NonNegative
from gradflow._leafwise import Scalars, leafwise, safe_sqrt
from gradflow._state import increment, zero_scalar


class AddNoiseState(NamedTuple):
    """Steps taken, and the data of the PRNG key of the next."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    rng_key: jax.Array


def noise_scalars(eta: jax.Array, gamma: jax.Array, count: jax.Array) -> Scalars:
    """The standard deviation at step `count`, from 1."""
    return {"deviation": safe_sqrt(eta) * jnp.exp(-0.5 * gamma * jnp.log(count.astype(gamma.dtype)))}


def noise_rule(g: jax.Array, sample: jax.Array, s: Any) -> jax.Array:
    """u = g + deviation * sample."""
    return g + s.deviation * sample


@transformation
def add_noise(eta: NonNegative, gamma: NonNegative, key: Any = None) -> Pair:
    """Adds Gaussian noise whose variance falls: `u = g + N(0, eta / (1 + t)^gamma)`, t from 0.

    Args:
      eta: variance at the first step, >= 0.
      gamma: how fast it falls, >= 0; 0.55 in the paper.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed.

    The state holds the key's data, plain integers, so that it can be saved anywhere.
    Raises TypeError for anything else as key. Source: Neelakantan et al. 2015, arXiv:1511.06807.
    """
    if isinstance(key, bool) or not isinstance(key, int | jax.Array):
        raise TypeError(f"add_noise: argument 'key' must be a PRNG key or an integer; got {describe(key)}")

    def as_key() -> Any:
        if isinstance(key, int):
            return jax.random.key(key)
        return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)

    def init(params: Params) -> OptState:
        data = jax.random.key_data(as_key())
        return AddNoiseState(zero_scalar(params), zero_scalar(params, data.dtype) + data)

    def update(
        updates: Updates, state: AddNoiseState, params: Params | None = None
    ) -> tuple[Updates, AddNoiseState]:
        count = increment(state.count)
        current = jax.random.wrap_key_data(state.rng_key, impl=jax.random.key_impl(as_key()))
        now, later = jax.random.split(current)
        samples = tree.random_like(now, updates, dtype=jnp.float32)
        (u,) = leafwise(noise_rule, (updates, samples), noise_scalars, eta=eta, gamma=gamma, count=count)
        return u, AddNoiseState(count, jax.random.key_data(later))

    return init, update
