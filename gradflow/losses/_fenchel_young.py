"""Makes a loss from any smoothed maximum."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradflow._errors import describe
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import pair
from gradflow.losses._logspace import weigh


class MaxFun(Protocol):
    """A convex function of a vector of scores, such as log-sum-exp."""

    def __call__(self, scores: jax.Array, /, *args: Any, **kwargs: Any) -> ArrayLike: ...


@one_frame
def make_fenchel_young_loss(max_fun: MaxFun) -> Callable[..., jax.Array]:
    """Returns the loss that `max_fun` generates: max_fun(scores) - sum(targets * scores).

    Its gradient is the gradient of `max_fun`, the prediction, minus the targets.
    For log-sum-exp it is the softmax cross entropy.

    Args:
      max_fun: a function from a vector of scores to a scalar.

    Returns:
      `loss(scores, targets, *args, **kwargs)` over the last axis: both of shape [..., dim], the
      result of shape [...] in their promoted dtype. Further arguments are passed to `max_fun`.

    Raises:
      ValueError: the shapes differ (from the loss).
      TypeError: max_fun cannot be called; from the loss, scores are not floating-point.

    Source: Blondel et al. 2020, "Learning with Fenchel-Young Losses", arXiv:1901.02324.
    """
    if not callable(max_fun):
        raise TypeError(
            f"make_fenchel_young_loss: argument 'max_fun' must be a function; got {describe(max_fun)}"
        )

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        x, y, out = pair("fenchel_young_loss", ("scores", "targets"), scores, targets)
        if x.ndim == 0:
            raise ValueError("fenchel_young_loss: argument 'scores' must have shape [..., dim]; got ()")

        def maximum(vector: jax.Array) -> jax.Array:
            return jnp.asarray(max_fun(vector, *args, **kwargs)).astype(x.dtype)

        top: jax.Array = jnp.vectorize(maximum, signature="(n)->()")(x)
        return (top - jnp.sum(weigh(y, x), -1)).astype(out)

    return fenchel_young_loss
