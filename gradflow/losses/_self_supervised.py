"""Losses of embeddings: related examples should be close, all others far apart."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._dtypes import compute_dtype
from gradflow._platform import by_platform
from gradflow._tracebacks import one_frame
from gradflow.losses._classes import class_labels
from gradflow.losses._inputs import Axis, axes_of, parameter, real, result_dtype, same_shape
from gradflow.losses._logspace import log_sum_exp
from gradflow.losses._similarity import inverse_norms


@one_frame
def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> jax.Array:
    """Normalized temperature-scaled cross entropy, the mean over all positive pairs i, j.

        s = cosine_similarity(embeddings[i], embeddings[j]) / temperature
        loss[i, j] = -log(exp(s[i, j]) / (exp(s[i, j]) + sum over negatives k of exp(s[i, k])))

    j is positive if it has the label of i and j != i; k is negative if it has another label.

    Args:
      embeddings: shape [batch, features]; a zero vector has similarity 0 to all.
      labels: integers, shape [batch]; equal for related examples.
      temperature: divisor of the similarity, > 0.

    Returns:
      A scalar >= 0 in the dtype of embeddings; 0 if there is no positive pair.

    Raises:
      ValueError: shapes do not fit, or temperature is not positive.
      TypeError: embeddings are not floating-point, or labels not integer.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning", arXiv:2002.05709.
    """
    x = real("ntxent", "embeddings", embeddings)
    if x.ndim != 2:
        raise ValueError(f"ntxent: argument 'embeddings' must have shape (batch, features); got {x.shape}")
    class_labels("ntxent", labels, x.shape, (1,))
    group = jnp.asarray(labels)  # not clipped to int32: labels are only compared, so any integers are valid
    out = x.dtype
    x = x.astype(compute_dtype(out))
    scale = parameter("ntxent", "temperature", temperature, jnp.zeros((), x.dtype), low=0.0, open_low=True)
    a, b = inverse_norms(x, (1,), jnp.zeros((), x.dtype))
    directions = x * a * b
    similarity = jnp.matmul(directions, directions.T, precision=jax.lax.Precision.HIGHEST) / scale
    same = group[:, None] == group[None, :]
    positive = same & ~jnp.eye(x.shape[0], dtype=np.bool_)
    negatives = log_sum_exp(similarity, (1,), ~same)
    losses = jax.nn.softplus(negatives[:, None] - similarity)
    pairs = jnp.maximum(jnp.sum(positive, dtype=np.int32), 1).astype(x.dtype)
    return (jnp.sum(jnp.where(positive, losses, 0.0)) / pairs).astype(out)


def _distance(x: jax.Array, axes: tuple[int, ...], degree: jax.Array, eps: jax.Array) -> jax.Array:
    """(sum(abs(x)**degree) + eps)**(1 / degree), with zero gradient where that is 0.

    Lengths above 1 are divided out first, so that no power overflows. The result does not depend on that
    scale, so it is excluded from the gradient.
    """
    size = jnp.abs(x)
    high = 0.25 / float(np.finfo(x.dtype).tiny)
    scale = jnp.max(jax.lax.stop_gradient(size), axes, keepdims=True, initial=1.0)
    scale = jnp.minimum(scale, high)
    apart = size > 0
    degrees = jnp.broadcast_to(degree, x.shape)
    part = jnp.where(apart, size * (1.0 / scale), 1.0)
    power = jnp.where(apart, jnp.power(part, degrees), 0.0)
    scale = jnp.squeeze(scale, axes)
    degrees = jnp.broadcast_to(degree, scale.shape)
    total = jnp.sum(power, axes) + eps * jnp.power(scale, -degrees)
    root = jnp.power(jnp.where(total > 0, total, 1.0), 1.0 / degrees)
    return scale * jnp.where(total > 0, root, 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _euclidean(vectors: list[jax.Array], axes: tuple[int, ...], eps: jax.Array) -> list[jax.Array]:
    """`_distance` of degree 2 for several arrays, without powers. Its derivative needs no scale."""
    scaled = functools.partial(_scaled_lengths, axes=axes)
    lengths: list[jax.Array] = by_platform(
        vectors, eps, cpu=functools.partial(_lengths, axes=axes), accelerator=scaled
    )
    return lengths


def _lengths(vectors: list[jax.Array], eps: jax.Array, axes: tuple[int, ...]) -> list[jax.Array]:
    """`_scaled_lengths`, which reads the vectors for their scale only where squares overflow."""
    totals = [jnp.sum(jnp.square(x), axes) + eps for x in vectors]
    largest = jnp.max(functools.reduce(jnp.maximum, totals), initial=0.0)
    scaled = functools.partial(_scaled_lengths, axes=axes)
    lengths: list[jax.Array] = jax.lax.cond(
        largest < jnp.inf, lambda *_: [jnp.sqrt(total) for total in totals], scaled, vectors, eps
    )
    return lengths


def _scaled_lengths(vectors: list[jax.Array], eps: jax.Array, axes: tuple[int, ...]) -> list[jax.Array]:
    lengths = []
    for x in vectors:
        scale = jnp.max(jnp.abs(x), axes, keepdims=True, initial=1.0)
        scale = jnp.minimum(scale, 0.25 / float(np.finfo(x.dtype).tiny))
        total = jnp.sum(jnp.square(x * (1.0 / scale)), axes)
        scale = jnp.squeeze(scale, axes)
        lengths.append(scale * jnp.sqrt(total + eps / scale / scale))
    return lengths


@_euclidean.defjvp
def _euclidean_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    (vectors, eps), (changes, d_eps) = primals, tangents
    lengths = _euclidean(vectors, axes, eps)
    slopes = []
    for x, dx, length in zip(vectors, changes, lengths, strict=True):
        # The factor 16 keeps the inverse of the largest lengths above the smallest normal number.
        inverse = jnp.where(length > 0, 16.0 / jnp.where(length > 0, length, 1.0), 0.0)
        slopes.append(inverse * (jnp.sum((0.0625 * x) * dx, axes) + 0.03125 * d_eps))
    return lengths, slopes


@one_frame
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> jax.Array:
    """Triplet loss, which is zero if the positive is closer to the anchor than the negative by a margin.

        distance(x) = (sum(abs(x)**norm_degree) + eps)**(1 / norm_degree)
        loss = max(distance(anchors - positives) - distance(anchors - negatives) + margin, 0)

    Args:
      anchors: shape [..., dim].
      positives: examples that should be near, the same shape.
      negatives: examples that should be far, the same shape.
      axis: axis or axes that make up a vector; None means all.
      norm_degree: any number > 0.
      margin: in units of the distance, a scalar or broadcast to the result.
      eps: >= 0; keeps the distance smooth at 0.

    Returns:
      Losses of shape [...], in the promoted dtype of the inputs.

    Raises:
      ValueError: shapes or axis do not fit, norm_degree is not positive, or eps is negative.
      TypeError: an input is not real floating-point numbers.

    Source: Balntas et al. 2016, "Learning Shallow Convolutional Feature Descriptors with Triplet Losses".
    """
    name = "triplet_margin_loss"
    a = real(name, "anchors", anchors)
    p = real(name, "positives", positives)
    n = real(name, "negatives", negatives)
    same_shape(name, "positives", p, "anchors", a.shape)
    same_shape(name, "negatives", n, "anchors", a.shape)
    axes = axes_of(name, axis, a.ndim)
    out = result_dtype(a, p, n)
    work = compute_dtype(out)
    a, p, n = a.astype(work), p.astype(work), n.astype(work)
    scalar = jnp.zeros((), work)
    finite = float(np.finfo(np.float32).max)
    degree = parameter(name, "norm_degree", norm_degree, scalar, low=0.0, high=finite, open_low=True)
    eps = parameter(name, "eps", eps, scalar, low=0.0)
    if isinstance(norm_degree, int | float | np.number) and norm_degree == 2:
        near, far = _euclidean([a - p, a - n], axes, eps)
    else:
        near, far = _distance(a - p, axes, degree, eps), _distance(a - n, axes, degree, eps)
    margin = parameter(name, "margin", margin, near)
    return jnp.maximum(near - far + margin, 0.0).astype(out)
