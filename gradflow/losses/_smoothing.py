"""Label smoothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._dtypes import compute_dtype
from gradflow._tracebacks import one_frame
from gradflow.losses._inputs import Axis, axes_of, keep, mask_of, parameter, real


@one_frame
def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Mixes labels with the uniform distribution: (1 - alpha) * labels + alpha / classes.

    Args:
      labels: probabilities of the classes (for example one-hot), floating-point, shape [..., classes].
      alpha: share of the uniform distribution in [0, 1]; a scalar, or broadcast to labels.
      axis: axis or axes of the classes; None means all.
      where: classes to include, of the labels' shape or without `axis`; only they are counted,
        and the others become 0.

    Returns:
      Smoothed labels, of the shape and dtype of labels.

    Raises:
      ValueError: axis, where or alpha does not fit.
      TypeError: labels are not real floating-point numbers.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", arXiv:1512.00567.

    >>> import gradflow as gf
    >>> gf.smooth_labels([0.0, 1.0, 0.0, 0.0], 0.5).tolist()
    [0.125, 0.625, 0.125, 0.125]
    """
    y = real("smooth_labels", "labels", labels)
    out = y.dtype
    y = y.astype(compute_dtype(out))
    axes = axes_of("smooth_labels", axis, y.ndim)
    mask = mask_of("smooth_labels", where, y.shape, axes)
    alpha = parameter("smooth_labels", "alpha", alpha, y, low=0.0, high=1.0)
    if mask is None:
        classes = jnp.asarray(math.prod(y.shape[a] for a in axes), y.dtype)
    else:
        count = jnp.sum(mask, axes, keepdims=True, dtype=np.int32)
        classes = jnp.maximum(count, 1).astype(y.dtype)
    return keep(mask, (1.0 - alpha) * keep(mask, y) + alpha / classes).astype(out)
