"""Elementwise losses of the difference between predictions and targets.

All of them return an array of the shape of `predictions`, in the promoted dtype of the inputs;
arithmetic below 32 bits is done in float32. `targets` has the same shape or is one number; in `huber_loss`
and `log_cosh` it broadcasts.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradflow._dtypes import DType
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import pair, parameter


def _errors(
    function: str, predictions: ArrayLike, targets: ArrayLike | None, broadcast: bool = False
) -> tuple[jax.Array, DType]:
    names = ("predictions", "targets")
    target = 0 if targets is None else targets
    x, y, out = pair(function, names, predictions, target, scalar=True, broadcast=broadcast)
    return x - y, out


@one_frame
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Squared error: (predictions - targets)**2.

    Args:
      predictions: floating-point numbers of any shape.
      targets: numbers of the same shape, or a single one; None means zeros.

    Returns:
      One loss for each element.

    Raises:
      ValueError: the shapes differ.
      TypeError: predictions are not real floating-point numbers.

    >>> import gradflow as gf
    >>> gf.squared_error([1.0, 2.0], [1.0, 4.0]).tolist()
    [0.0, 4.0]
    """
    errors, out = _errors("squared_error", predictions, targets)
    return jnp.square(errors).astype(out)


@jax.custom_jvp
def _half_square(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.square(x)


@_half_square.defjvp
def _half_square_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The slope of the square, twice the error, may overflow.
    (x,), (dx,) = primals, tangents
    return _half_square(x), x * dx


@one_frame
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Half the squared error, (predictions - targets)**2 / 2: its gradient is the error itself.

    Args:
      predictions: floating-point numbers of any shape.
      targets: numbers of the same shape, or a single one; None means zeros.

    Returns:
      One loss for each element.

    Raises:
      ValueError: the shapes differ.
      TypeError: predictions are not real floating-point numbers.

    >>> import gradflow as gf
    >>> gf.l2_loss([1.0, 2.0], [1.0, 4.0]).tolist()
    [0.0, 2.0]
    """
    errors, out = _errors("l2_loss", predictions, targets)
    return _half_square(errors).astype(out)


@one_frame
def huber_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0
) -> jax.Array:
    """Huber loss: error**2 / 2 where |error| <= delta, delta * (|error| - delta / 2) beyond.

    The gradient is the error clipped to [-delta, delta].

    Args:
      predictions: floating-point numbers of any shape.
      targets: numbers in a shape that broadcasts; None means zeros.
      delta: where the parabola turns into lines, >= 0, in units of the error; infinity for `l2_loss`.

    Returns:
      One loss for each element.

    Raises:
      ValueError: the shapes do not broadcast, or delta is negative.
      TypeError: predictions are not real floating-point numbers.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".

    >>> import gradflow as gf
    >>> gf.huber_loss([0.5, 3.0]).tolist()
    [0.125, 2.5]
    """
    errors, out = _errors("huber_loss", predictions, targets, broadcast=True)
    positive = isinstance(delta, int | float) and delta > 0
    delta = parameter("huber_loss", "delta", delta, errors, low=0.0)
    delta = jnp.minimum(delta, jnp.finfo(delta.dtype).max)  # so that an infinite error is not inf - inf
    size = jnp.abs(errors)
    # One product, whose slope by the error is `inner`: that of a sum would round to the digits of delta.
    inner = jnp.where(size < delta, size, delta)
    rest = size - 0.5 * inner
    if not positive:  # 0 * inf is NaN
        rest = jnp.where((delta == 0) & (size == jnp.inf), jnp.finfo(rest.dtype).max, rest)
    return (inner * rest).astype(out)


@jax.custom_jvp
def _log_cosh(x: jax.Array) -> jax.Array:
    # cosh = 1 / sqrt(1 - tanh^2) = exp / (1 + tanh): the first keeps all digits near zero, the second far
    # from it. One logarithm serves both.
    size = jnp.abs(x)
    near, slope = size < 1.0, jnp.tanh(size)
    log = jnp.log1p(jnp.where(near, -jnp.square(slope), slope))
    return jnp.where(near, -0.5 * log, size - log)


@_log_cosh.defjvp
def _log_cosh_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return _log_cosh(x), jnp.tanh(x) * dx


@one_frame
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Logarithm of the hyperbolic cosine of the error: log(cosh(predictions - targets)).

    About error**2 / 2 near zero and |error| - log(2) far from it; its gradient is tanh(error).
    All digits are kept for errors from 1e-18 to the largest ones.

    Args:
      predictions: floating-point numbers of any shape.
      targets: numbers in a shape that broadcasts; None means zeros.

    Returns:
      One loss for each element, never negative.

    Raises:
      ValueError: the shapes do not broadcast.
      TypeError: predictions are not real floating-point numbers.

    Source: Chen et al. 2019, "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder".
    """
    errors, out = _errors("log_cosh", predictions, targets, broadcast=True)
    return _log_cosh(errors).astype(out)
