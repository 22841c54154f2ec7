"""Gaussian noise on gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative
from gradflow._kernel_hints._joining import factors_kept
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import safe_sqrt
from gradflow._rules._mesh_axes import AxisName, check_axis_name, sum_axes
from gradflow._rules._state import increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._keys import key_state, next_key, normal_like, read_key


class AddNoiseState(NamedTuple):
    """Steps taken, and the data of the PRNG key of the next."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    rng_key: jax.Array


def noise_scalars(eta: jax.Array, gamma: jax.Array, count: jax.Array) -> Scalars:
    """The standard deviation at step `count`, from 1."""
    return {"deviation": safe_sqrt(eta) * jnp.exp(-0.5 * gamma * jnp.log(count.astype(gamma.dtype)))}


def noise_rule(g: jax.Array, sample: jax.Array, s: Any) -> jax.Array:
    """u = g + deviation * sample."""
    return g + s.deviation * factors_kept(sample)


@transformation(reports=("deviation",))
def add_noise(
    eta: NonNegative, gamma: NonNegative, key: Any = None, *, seed: Any = None, axis_name: AxisName = None
) -> Pair:
    """Adds Gaussian noise whose variance falls: `u = g + N(0, eta / (1 + t)^gamma)`, t from 0.

    Args:
      eta: variance at the first step, >= 0; complex numbers have half of it in each part.
      gamma: power by which the variance falls, >= 0; 0.55 in the paper.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed; None is 0, with a warning.
      seed: another name of `key`.
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, with
        independent noise per shard, or `()` if every device holds the same updates.

    The state holds the key's data, plain integers, so that any format can save it. Reports `deviation`,
    the root of the variance. Raises TypeError for another kind of key, and ValueError inside `shard_map`
    where updates differ along an axis and no `axis_name` is given.
    Source: Neelakantan et al. 2015, arXiv:1511.06807.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.add_noise(0.01, 0.55, key=0), gf.sgd(0.1)))
    chain(add_noise(0.01, 0.55, key=0), sgd(0.1))
    """
    check_axis_name("add_noise", axis_name)
    key = read_key("add_noise", key, seed)

    def init(params: Params) -> OptState:
        return AddNoiseState(zero_scalar(params), key_state(key, params))

    def update(
        updates: Updates, state: AddNoiseState, params: Params | None = None
    ) -> tuple[Updates, AddNoiseState]:
        axes = sum_axes(axis_name, updates)
        count = increment(state.count)
        now, later = next_key(key, state.rng_key)
        samples = normal_like(now, updates, axes)
        report("deviation", lambda: _deviation(eta, gamma, count))
        (u,) = leafwise(noise_rule, (updates, samples), noise_scalars, eta=eta, gamma=gamma, count=count)
        return u, AddNoiseState(count, later)

    return init, update


def _deviation(eta: Any, gamma: Any, count: jax.Array) -> jax.Array:
    scalars = noise_scalars(jnp.asarray(eta, np.float32), jnp.asarray(gamma, np.float32), count)
    return scalars["deviation"]
