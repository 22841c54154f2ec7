"""Sums of exponentials, and products with logarithms, that neither overflow nor become NaN."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def peak_of(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The largest entry along `axes`, kept as sizes of 1; 0 where it is infinite or missing.

    It is subtracted before `exp` for range only, so it is excluded from the gradient.
    """
    return _if_finite(_largest(x, axes))


def _largest(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    return jnp.max(jax.lax.stop_gradient(x), axes, keepdims=True, initial=-jnp.inf)


def _if_finite(peak: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(peak), peak, 0.0)


def one_hot_at_infinity(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """`x`, and where entries along `axes` are +inf these are 0 and the others -inf.

    It has the softmax that `x` has in the limit, shared equally by several infinities. The derivative is
    that of the identity, so the gradient of a cross entropy is still `p - labels`.
    """
    return _one_hot_and_peak(x, axes)[0]


def centered(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """`one_hot_at_infinity(x)` minus its peak, which is found in the same pass."""
    x, peak = _one_hot_and_peak(x, axes)
    return x - peak


def _one_hot_and_peak(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    top = _largest(x, axes)
    one_hot = jnp.where(top == jnp.inf, jnp.where(x == jnp.inf, 0.0, -jnp.inf), x)
    return with_value(x, one_hot), _if_finite(top)


@jax.custom_jvp
def with_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the derivative of `x`."""
    return value


@with_value.defjvp
def _with_value_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return primals[1], tangents[0]


def log_sum_exp(x: jax.Array, axes: Sequence[int], mask: jax.Array | None = None) -> jax.Array:
    """log(sum(exp(x))) over the entries of `mask`; -inf, with zero gradients, if there are none."""
    if mask is not None:
        x = jnp.where(mask, x, -jnp.inf)
    peak = peak_of(x, axes)
    total = jnp.sum(jnp.exp(x - peak), axes, keepdims=True)
    empty = total == 0
    out = jnp.where(empty, -jnp.inf, peak + jnp.log(jnp.where(empty, 1.0, total)))
    return jnp.squeeze(out, tuple(axes))


def log_softmax(x: jax.Array, axes: Sequence[int], mask: jax.Array | None = None) -> jax.Array:
    """x - log_sum_exp(x), with -inf for the entries outside `mask`, and beside an infinite logit."""
    if mask is not None:
        x = jnp.where(mask, x, -jnp.inf)
    x = centered(x, axes)
    total = jnp.sum(jnp.exp(x), axes, keepdims=True)
    return x - jnp.log(jnp.where(total == 0, 1.0, total))


def weigh(weights: jax.Array, logs: jax.Array) -> jax.Array:
    """weights * logs, where 0 * log(0) is 0; the gradient of such an entry is 0 too."""
    return weights * jnp.where((weights == 0) & (logs == -jnp.inf), 0.0, logs)


def cross_entropy(weights: jax.Array, logs: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """-sum(weights * logs); 0 where every term is 0, not -0, which prints as a negative loss."""
    return 0.0 - jnp.sum(weigh(weights, logs), axes)


def clamp(x: jax.Array, low: float, high: float) -> jax.Array:
    """Clips `x` to the range that it has in exact arithmetic; its gradient is that of the identity."""
    excess = jnp.where(x < low, low - x, jnp.where(x > high, high - x, 0.0))
    return x + jax.lax.stop_gradient(excess)


def positive_part(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, whose derivative at 0 is 1/2. A NaN also stays one where a CPU adds up the results."""
    return jnp.maximum(0.0, x) + jnp.where(x != x, x, 0.0)
