"""Functions that are finite, with finite derivatives, where the plain ones are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import (
    ARRAY,
    ARRAYS,
    AXES,
    FLAG,
    KEY,
    SCALAR,
    SHAPE,
    Kind,
    Number,
    checked,
    is_real_number,
)
from gradflow._dtypes import compute_dtype, is_inexact, promote, real_dtype
from gradflow._errors import describe
from gradflow._rules._math import size_root
from gradflow._rules._state import increment
from gradflow.tree._nan import nan_of
from gradflow.tree._norm import norm

__all__ = [
    "MultiNormalDiagFromLogScale",
    "multi_normal",
    "safe_increment",
    "safe_int32_increment",
    "safe_norm",
    "safe_root_mean_squares",
    "scale_gradient",
]


def _is_order(value: Any) -> bool:
    return value in (None, "fro", "nuc") if value is None or isinstance(value, str) else is_real_number(value)


@checked(count=ARRAY)
def safe_increment(count: Any) -> jax.Array:
    """Returns `count + 1`, or the largest number of its dtype where that would be beyond it.

    Args:
      count: a step counter, a real number or array, usually of integers.
    """
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.integer):
        return increment(count)
    if not jnp.issubdtype(count.dtype, jnp.floating):
        raise ValueError(f"safe_increment: argument 'count' must be a real number; got {describe(count)}")
    one = jnp.ones((), count.dtype)
    last = jnp.asarray(jnp.finfo(count.dtype).max, count.dtype)
    return jnp.minimum(count + one, last)


safe_int32_increment = safe_increment


@checked(
    x=ARRAY,
    min_norm=Number(0),
    axis=AXES | None,
    keepdims=FLAG,
    ord=Kind("None, a number, 'fro' or 'nuc'", _is_order),
)
def safe_norm(
    x: Any,
    min_norm: Any,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    """Returns `max(norm(x), min_norm)`, with derivative 0 where the norm is at most `min_norm`.

    Args:
      x: an array of inexact numbers.
      min_norm: the smallest result, >= 0.
      ord, axis, keepdims: as for `jnp.linalg.norm`.

    Below float32 the norm is taken in float32; the result has the dtype of `x`.
    """
    x = _inexact("safe_norm", x)
    low = real_dtype(compute_dtype(x.dtype))
    wide = x.astype(promote(x.dtype, low))
    floor = jnp.asarray(min_norm, low)
    scale = _power_of_two_near(wide, axis)
    if not (ord is None or isinstance(ord, str)) and ord <= 0:  # the smallest numbers decide, or their number
        scale = jnp.ones_like(scale)
    unit = wide / scale.astype(wide.dtype)
    small = scale * jnp.linalg.norm(jax.lax.stop_gradient(unit), ord=ord, axis=axis, keepdims=True) <= floor
    inside = jnp.where(small, _away_from_zero(wide, ord, axis), unit)
    length = jnp.linalg.norm(inside, ord=ord, axis=axis, keepdims=keepdims)
    small, scale = jnp.reshape(small, length.shape), jnp.reshape(scale, length.shape)
    result = jnp.where(small, floor, scale * length)
    if ord not in (None, 2, "fro", "nuc"):  # a maximum or minimum
        result = result + nan_of(jax.lax.stop_gradient(jnp.abs(wide)), axis, keepdims=keepdims)
    return result.astype(real_dtype(x.dtype))


def _power_of_two_near(x: jax.Array, axis: Any) -> jax.Array:
    """A power of two near the largest number along the axes: divided by it, squares are in range.

    Norms have the same digits then, and the same derivatives. Infinite numbers and NaN have scale 1/2.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axis, keepdims=True, initial=0)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 0))
    limits = jnp.finfo(largest.dtype)  # the reciprocal is a normal number, too
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent - 1, limits.minexp, limits.maxexp - 3))


def _away_from_zero(x: jax.Array, ord: Any, axis: Any) -> jax.Array:
    """An array near `x` at which the norm has a derivative."""
    axes = axis if axis is not None else tuple(range(x.ndim))
    if ord is None or not isinstance(axes, tuple) or len(axes) != 2:
        return jnp.ones_like(x)
    # Singular values must be distinct.
    rows, columns = (jax.lax.broadcasted_iota(np.int32, x.shape, a % x.ndim) for a in axes)
    return jnp.where(rows == columns, rows + 1, 0).astype(x.dtype)


@checked(x=ARRAY, min_rms=Number(0))
def safe_root_mean_squares(x: Any, min_rms: Any) -> jax.Array:
    """Returns `max(sqrt(mean(|x|^2)), min_rms)`, with derivative 0 where the root is at most `min_rms`.

    Args:
      x: an array of inexact numbers; an empty one has root 0.
      min_rms: the smallest result, >= 0.

    Below float32 the root is taken in float32; the result has the dtype of `x`.
    """
    x = _inexact("safe_root_mean_squares", x)
    low = real_dtype(compute_dtype(x.dtype))
    wide = x.astype(promote(x.dtype, low))
    floor = jnp.asarray(min_rms, low)
    root = norm(wide) / jnp.asarray(size_root(max(x.size, 1)), low)
    return jnp.where(root <= floor, floor, root).astype(real_dtype(x.dtype))


@checked(inputs=ARRAYS, scale=SCALAR)
def scale_gradient(inputs: Any, scale: Any) -> Any:
    """Returns `inputs` unchanged, and multiplies their gradients by `scale`.

    Args:
      inputs: a tree of inexact arrays.
      scale: a number; 0 stops gradients, -1 reverses them.
    """
    arrays = jax.tree.map(jnp.asarray, inputs)
    return jax.tree.map(lambda x: _scaled(x, jnp.asarray(scale)) if is_inexact(x.dtype) else x, arrays)


@jax.custom_jvp
def _scaled(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x


@_scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> Any:
    (x, scale), (dx, _) = primals, tangents
    return x, dx * scale.astype(x.dtype)


@jax.tree_util.register_pytree_node_class
class MultiNormalDiagFromLogScale:
    """Independent normal variables, given by means and logarithms of standard deviations."""

    def __init__(self, loc: Any, log_scale: Any) -> None:
        self._loc = loc
        self._log_scale = log_scale

    @property
    def log_scale(self) -> Any:
        """The logarithms of the standard deviations."""
        return self._log_scale

    @property
    def params(self) -> list[Any]:
        """`[loc, log_scale]`."""
        return [self._loc, self._log_scale]

    @checked(shape=SHAPE, key=KEY)
    def sample(self, shape: tuple[int, ...], key: Any) -> jax.Array:
        """Samples, differentiable in the parameters, in an array of shape `(*shape, *parameters' shape)`."""
        loc, log_scale = jnp.broadcast_arrays(self._loc, self._log_scale)
        noise = jax.random.normal(key, (*shape, *loc.shape), loc.dtype)
        lead = (None,) * len(shape)
        return loc[lead] + jnp.exp(log_scale)[lead] * noise

    @checked(x=ARRAY)
    def log_prob(self, x: Any) -> jax.Array:
        """The logarithm of the density at `x`, an array of one sample or many."""
        loc, log_scale = jnp.broadcast_arrays(self._loc, self._log_scale)
        x = jnp.asarray(x, loc.dtype)
        lead = (None,) * (x.ndim - loc.ndim)
        distance = (x - loc[lead]) * jnp.exp(-log_scale)[lead]
        terms = -0.5 * distance**2 - log_scale[lead] - 0.5 * np.log(2 * np.pi)
        return jnp.sum(terms, axis=tuple(range(-loc.ndim, 0)))

    def tree_flatten(self) -> tuple[list[Any], None]:
        """The parameters are the leaves."""
        return self.params, None

    @classmethod
    def tree_unflatten(cls, _: None, parts: list[Any]) -> "MultiNormalDiagFromLogScale":
        """Rebuilds it from the leaves, which may be placeholders."""
        return cls(*parts)


@checked(loc=ARRAY, log_scale=ARRAY)
def multi_normal(loc: Any, log_scale: Any) -> MultiNormalDiagFromLogScale:
    """Builds independent normal variables with means `loc` and deviations `exp(log_scale)`.

    Args:
      loc: an array or a number.
      log_scale: one whose shape broadcasts with that of `loc`.

    The result has `sample(shape, key)`, `log_prob(x)`, summed over all axes of the parameters, `params` and
    `log_scale`. Raises ValueError for shapes that do not broadcast.
    """
    loc, log_scale = _inexact("multi_normal", loc), _inexact("multi_normal", log_scale)
    try:
        jnp.broadcast_shapes(loc.shape, log_scale.shape)
    except ValueError:
        raise ValueError(
            f"multi_normal: arguments 'loc' and 'log_scale' must have shapes that broadcast; got {loc.shape} "
            f"and {log_scale.shape}. Incompatible shapes for broadcasting"
        ) from None
    return MultiNormalDiagFromLogScale(loc, log_scale)


def _inexact(owner: str, x: Any) -> jax.Array:
    x = jnp.asarray(x)
    if not is_inexact(x.dtype):
        raise TypeError(f"{owner}: inputs must be floating point or complex; got {describe(x)}")
    return x
