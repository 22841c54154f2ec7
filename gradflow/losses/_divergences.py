"""Kullback-Leibler divergences between distributions.

0 * log(0) counts as 0, also where the prediction is 0. Results have the promoted dtype of the inputs.
Source: Kullback and Leibler 1951, "On Information and Sufficiency".
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradflow._dtypes import DType
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import Axis, axes_of, keep, mask_of, pair
from gradflow.losses._logspace import clamp


def _inputs(
    function: str,
    names: tuple[str, str],
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None, tuple[int, ...], DType]:
    log_q, p, out = pair(function, names, log_predictions, targets, reals=True, broadcast=True)
    axes = axes_of(function, axis, log_q.ndim)
    mask = mask_of(function, where, log_q.shape, axes)
    return keep(mask, log_q), keep(mask, p), mask, axes, out


def _relative_entropy(p: jax.Array, log_q: jax.Array) -> jax.Array:
    """p * (log(p) - log_q), element by element."""
    some = jnp.where(p == 0, 1.0, p)
    return jnp.where(p == 0, 0.0, some * (jnp.log(some) - log_q))


@one_frame
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence: sum(targets * (log(targets) - log_predictions)).

    An element with target 0 is 0 and has zero gradients.

    Args:
      log_predictions: logarithms of the predicted probabilities, shape [..., dim].
      targets: probabilities, in a shape that broadcasts.
      axis: axis or axes to sum over; None means all.
      where: elements to include, of the inputs' shape or without `axis`.

    Returns:
      Divergences in nats, shape [...].

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: an input is not real floating-point numbers.
    """
    names = ("log_predictions", "targets")
    log_q, p, _, axes, out = _inputs("kl_divergence", names, log_predictions, targets, axis, where)
    return jnp.sum(_relative_entropy(p, log_q), axes).astype(out)


@one_frame
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Kullback-Leibler divergence: sum(exp(log_targets) * (log_targets - log_predictions)).

    Args:
      log_predictions: logarithms of the predicted probabilities, shape [..., dim].
      log_targets: logarithms of the target probabilities, in a shape that broadcasts; -inf for 0.
      axis: axis or axes to sum over; None means all.
      where: elements to include, of the inputs' shape or without `axis`.

    Returns:
      Divergences in nats, shape [...].

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: an input is not real floating-point numbers.
    """
    names = ("log_predictions", "log_targets")
    log_q, log_p, _, axes, out = _inputs(
        "kl_divergence_with_log_targets", names, log_predictions, log_targets, axis, where
    )
    possible = log_p != -jnp.inf
    gap = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    p = jnp.exp(log_p)
    # A probability that vanishes only by rounding still makes an infinite gap infinite, and not NaN.
    p = jnp.where((gap == jnp.inf) & (p == 0.0), jnp.finfo(p.dtype).tiny, p)
    return jnp.sum(p * gap, axes).astype(out)


@one_frame
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence of measures that need not sum to 1; it is never negative.

        q = exp(log_predictions)
        loss = sum(targets * (log(targets) - log_predictions) + q - targets)

    It is the Bregman divergence of x * log(x) - x.

    Args:
      log_predictions: logarithms of the predicted densities, shape [..., dim].
      targets: densities >= 0, in a shape that broadcasts.
      axis: axis or axes to sum over; None means all.
      where: elements to include, of the inputs' shape or without `axis`.

    Returns:
      Divergences in nats, shape [...].

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: an input is not real floating-point numbers.

    Source: Bregman 1967, "The relaxation method of finding the common point of convex sets".
    """
    names = ("log_predictions", "targets")
    log_q, p, mask, axes, out = _inputs(
        "generalized_kl_divergence", names, log_predictions, targets, axis, where
    )
    terms = keep(mask, _relative_entropy(p, log_q) + (jnp.exp(log_q) - p))
    return clamp(jnp.sum(terms, axes), 0.0, jnp.inf).astype(out)
