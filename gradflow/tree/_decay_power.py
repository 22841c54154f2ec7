"""Powers of decays, with exact digits and exact derivatives."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from gradflow import _platform


def one_minus_power(c: jax.Array, count: jax.Array) -> jax.Array:
    """`1 - (1 - c)**count` for the complement `c = 1 - b` of a decay, to full precision.

    `1 - b**t` loses its digits where b is near 1 and t small; `c` is exact by Sterbenz's lemma (b >= 0.5),
    and expm1 and log1p keep them, or a power in float64. Zero for count 0; one for b = 0 and count > 0.
    Derivatives of every order at b = 0 are the limits from above.
    """
    if c.shape != count.shape:
        c, count = jnp.broadcast_arrays(c, count)
    return _one_minus_power(c, count)


@jax.custom_jvp
def _one_minus_power(c: jax.Array, count: jax.Array) -> jax.Array:
    if np.shape(c) or c.dtype != np.float32 or jax.sharding.get_abstract_mesh().manual_axes:
        return _from_expm1(c, count)
    result: jax.Array = _of_numbers().bind(c, count)
    return result


def _from_expm1(c: jax.Array, count: jax.Array) -> jax.Array:
    # Functions of jax.numpy would be traced for each program: a tenth of the time to trace Adam on 12 leaves.
    t, one = jax.lax.convert_element_type(count, c.dtype), np.ones(np.shape(c), c.dtype)
    power = jax.lax.expm1(jax.lax.mul(t, _log_decay(c)))
    return jax.lax.select(jax.lax.lt(c, one), jax.lax.neg(power), jax.lax.min(t, one))


def _in_float64(c: jax.Array, count: jax.Array) -> jax.Array:
    """Rounded once to float32: a difference of numbers of 53 bits has 29 of them left where t is 1."""
    c, t = (jax.lax.convert_element_type(x, np.float64) for x in (c, count))
    one = np.ones((), np.float64)
    return jax.lax.convert_element_type(one - jax.lax.pow(one - c, t), np.float32)


@functools.cache
def _of_numbers() -> Any:
    """A primitive of two numbers, the first in float32; a CPU computes it in float64 with a call of `pow`.

    expm1 is a hundred instructions there, in a kernel for each decay: 2 % of the time to compile a step of
    PPO with Adam (`python -m benchmarks.compiling --only ppo`).
    """
    power = type(jax.lax.add_p)("one_minus_power")
    power.def_impl(_from_expm1)
    power.def_abstract_eval(lambda c, count: c.update(weak_type=False))

    def mapped(operands: Sequence[Any], axes: Sequence[Any]) -> Any:
        return jax.vmap(_from_expm1, axes)(*operands), 0

    def derived(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        # The first derivative of a loop is a program without custom rules, which a second one reads.
        slope = _slope_of_power(primals[0], primals[1].astype(primals[0].dtype))
        return power.bind(*primals), ad.instantiate_zeros(tangents[0]) * slope

    general, double = (mlir.lower_fun(f, multiple_results=False) for f in (_from_expm1, _in_float64))

    def on_cpu(ctx: Any, c: Any, count: Any) -> Any:
        if not _platform.CPU:
            return general(ctx, c, count)
        with jax.enable_x64(True):
            return double(ctx, c, count)

    ad.primitive_jvps[power] = derived
    batching.primitive_batchers[power] = mapped
    mlir.register_lowering(power, general)
    mlir.register_lowering(power, on_cpu, platform="cpu")
    return power


@_one_minus_power.defjvp
def _one_minus_power_jvp(primals: Any, tangents: Any) -> Any:
    c, count = primals
    return _one_minus_power(c, count), tangents[0] * _slope_of_power(c, count.astype(c.dtype))


@jax.custom_jvp
def _decay_power(c: jax.Array, t: jax.Array) -> jax.Array:
    """`(1 - c)**t`, with 1 for t = 0."""
    zero = jnp.zeros((), c.dtype)
    return jnp.where(c < jnp.ones((), c.dtype), jnp.exp(t * _log_decay(c)), (t == zero).astype(c.dtype))


@_decay_power.defjvp
def _decay_power_jvp(primals: Any, tangents: Any) -> Any:
    c, t = primals
    return _decay_power(c, t), -tangents[0] * _slope_of_power(c, t)


def _slope_of_power(c: jax.Array, t: jax.Array) -> jax.Array:
    """`t * (1 - c)**(t - 1)`, the derivative of `(1 - c)**t` but for its sign."""
    one, zero = jnp.ones((), c.dtype), jnp.zeros((), c.dtype)
    return jnp.where(t < one, zero, t * _decay_power(c, jnp.maximum(t - one, zero)))


def _log_decay(c: jax.Array) -> jax.Array:
    """`log(1 - c)`, finite at c = 1 too, where it is not used."""
    one, half = np.ones(np.shape(c), c.dtype), np.full(np.shape(c), 0.5, c.dtype)
    return jax.lax.log1p(jax.lax.neg(jax.lax.select(jax.lax.lt(c, one), c, half)))
