"""Ranking losses, which compare the scores of the items in a list with their relevance."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._errors import describe
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import keep, mask_of, number, pair, parameter
from gradflow.losses._logspace import cross_entropy, log_softmax

Reduce = Callable[..., ArrayLike]


def _mean(losses: jax.Array, lists: jax.Array | None) -> jax.Array:
    """The mean over the lists that have an item; 0 if there is none."""
    if lists is None:
        return jnp.mean(losses)
    count = jnp.maximum(jnp.sum(lists, dtype=np.int32), 1)
    return jnp.sum(keep(lists, losses)) / count.astype(losses.dtype)


@one_frame
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce | None = jnp.mean,
) -> jax.Array:
    """Softmax loss of a list of scored items: -sum(weights * labels * log(softmax(logits))).

    Args:
      logits: scores, shape [..., items].
      labels: relevance >= 0, the same shape.
      where: items to include, the same shape or [...]; a list without any has loss 0 and does
        not count in a mean.
      weights: factors of the labels, a scalar or in a shape that broadcasts to theirs.
      reduce_fn: called as `reduce_fn(losses, where=lists)`; `jax.numpy.mean`, `jax.numpy.sum`,
        or None for one loss per list.

    Returns:
      The reduced loss, in the promoted dtype of logits and labels.

    Raises:
      ValueError: shapes do not fit.
      TypeError: logits are not floating-point, or reduce_fn cannot be called.

    Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """
    name = "ranking_softmax_loss"
    x, y, out = pair(name, ("logits", "labels"), logits, labels)
    if x.ndim == 0:
        raise ValueError(f"{name}: argument 'logits' must have shape [..., items]; got ()")
    if reduce_fn is not None and not callable(reduce_fn):
        raise TypeError(f"{name}: argument 'reduce_fn' must be a function or None; got {describe(reduce_fn)}")
    last = (x.ndim - 1,)
    mask = mask_of(name, where, x.shape, last)
    if weights is not None:
        # As a jax array: weights have no range, and may be NaN outside the mask.
        y = y * parameter(name, "weights", number(name, "weights", weights), y)
    losses = cross_entropy(keep(mask, y), log_softmax(x, last, mask), last)
    lists = None if mask is None else jnp.any(mask, -1)
    if reduce_fn is None:
        return losses.astype(out)
    reduced = _mean(losses, lists) if reduce_fn is jnp.mean else reduce_fn(losses, where=lists)
    return jnp.asarray(reduced).astype(out)
