"""Noise on gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._axes import AxisName, axes_of, check_axis_name, sum_axes
from gradflow._base import OptState, Pair, Params, Updates, transformation
from gradflow._dtypes import compute_dtype
from gradflow._errors import describe
from gradflow._hyper import NonNegative
from gradflow._leafwise import Scalars, leafwise, safe_sqrt
from gradflow._report import report
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


@transformation(reports=("deviation",))
def add_noise(eta: NonNegative, gamma: NonNegative, key: Any = None, *, axis_name: AxisName = None) -> Pair:
    """Adds Gaussian noise whose variance falls: `u = g + N(0, eta / (1 + t)^gamma)`, t from 0.

    Args:
      eta: variance at the first step, >= 0; of complex numbers half of it lies in each part.
      gamma: how fast it falls, >= 0; 0.55 in the paper.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are pieces of the whole,
        each with noise of its own, or `()` if every device holds the same updates.

    The state holds the key's data, plain integers, so that it can be saved anywhere. Reports `deviation`,
    the root of the variance. Raises TypeError for anything else as key, and ValueError inside
    `shard_map` where updates differ along an axis and no `axis_name` is given.
    Source: Neelakantan et al. 2015, arXiv:1511.06807.
    """
    check_axis_name("add_noise", axis_name)
    if isinstance(key, bool) or not isinstance(key, int | np.integer | jax.Array):
        raise TypeError(f"add_noise: argument 'key' must be a PRNG key or an integer; got {describe(key)}")
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if isinstance(key, jax.Array) and (key.ndim != 0 if typed else key.dtype != np.uint32 or key.ndim != 1):
        raise TypeError(f"add_noise: argument 'key' must be one PRNG key or an integer; got {describe(key)}")

    def init(params: Params) -> OptState:
        data = key if isinstance(key, jax.Array) and not typed else jax.random.key_data(_typed(key))
        return AddNoiseState(zero_scalar(params), zero_scalar(params, data.dtype) + data)

    def update(
        updates: Updates, state: AddNoiseState, params: Params | None = None
    ) -> tuple[Updates, AddNoiseState]:
        axes = sum_axes(axis_name, updates)
        count = increment(state.count)
        current = jax.random.wrap_key_data(state.rng_key, impl=jax.random.key_impl(key) if typed else None)
        now, later = jax.random.split(current)
        keys = tree.split_key_like(now, updates)
        samples = jax.tree.map(lambda k, g: _sample(k, g, axes), keys, updates)
        report("deviation", lambda: _deviation(eta, gamma, count))
        (u,) = leafwise(noise_rule, (updates, samples), noise_scalars, eta=eta, gamma=gamma, count=count)
        return u, AddNoiseState(count, jax.random.key_data(later))

    return init, update


def _typed(key: Any) -> Any:
    return key if isinstance(key, jax.Array) else jax.random.key(key)


def _sample(key: Any, g: jax.Array, axes: tuple[str, ...]) -> Any:
    """Normal numbers for a leaf; different ones on each device that holds a piece of it."""
    for name in axes_of(g, axes):
        key = jax.random.fold_in(key, jax.lax.axis_index(name))
    return tree.random_like(key, g, _normal)


def _normal(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, compute_dtype(dtype))


def _deviation(eta: Any, gamma: Any, count: jax.Array) -> jax.Array:
    scalars = noise_scalars(jnp.asarray(eta, np.float32), jnp.asarray(gamma, np.float32), count)
    return scalars["deviation"]
