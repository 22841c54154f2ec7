"""Losses of embeddings: related examples should be close, all others far apart."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from gradflow._dtypes import compute_dtype
from gradflow._platform import by_platform
from gradflow._tracebacks import one_frame
from gradflow.losses._classes import class_labels
from gradflow.losses._inputs import Axis, axes_of, parameter, real, result_dtype, same_shape
from gradflow.losses._logspace import log_sum_exp, positive_part
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _distance(x: jax.Array, axes: tuple[int, ...], degree: jax.Array, eps: jax.Array) -> jax.Array:
    """(sum(abs(x)**degree) + eps)**(1 / degree), with zero gradient where that is 0."""
    return _distance_by_powers(x, axes, degree, eps)


def _distance_by_powers(x: jax.Array, axes: tuple[int, ...], degree: jax.Array, eps: jax.Array) -> jax.Array:
    """Lengths above 1 are divided out first, so that no power overflows.

    The result does not depend on that scale, so it is excluded from the gradient.
    """
    size = jnp.abs(x)
    high = 0.25 / float(np.finfo(x.dtype).tiny)
    scale = jnp.max(jax.lax.stop_gradient(size), axes, keepdims=True, initial=1.0)
    scale = jnp.minimum(scale, high)
    apart = size != 0  # also of a NaN, which is to show in the loss
    degrees = jnp.broadcast_to(degree, x.shape)
    part = jnp.where(apart, size * (1.0 / scale), 1.0)
    power = jnp.where(apart, jnp.power(part, degrees), 0.0)
    scale = jnp.squeeze(scale, axes)
    degrees = jnp.broadcast_to(degree, scale.shape)
    total = jnp.sum(power, axes) + eps * jnp.power(scale, -degrees)
    some = total != 0
    root = jnp.power(jnp.where(some, total, 1.0), 1.0 / degrees)
    return scale * jnp.where(some, root, 0.0)


def _distance_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Any, Any]:
    """`(size / length)**(degree - 1)` along `x`; a product with the scale could overflow on its way."""
    (x, degree, eps), (dx, d_degree, d_eps) = primals, tangents
    length = _distance(x, axes, degree, eps)
    change = jnp.zeros_like(length)
    if not isinstance(dx, SymbolicZero):
        power = jnp.broadcast_to(degree - 1.0, length.shape)
        some = length > 0
        whole = jnp.where(some, length, 1.0)
        # Below degree 1 the quotient may underflow, above it the power of a size overflow.
        unit, factor = jnp.where(power < 0, 1.0, whole), jnp.power(jnp.where(power < 0, whole, 1.0), -power)
        apart = x != 0
        part = jnp.where(apart, jnp.abs(x) / jnp.expand_dims(unit, axes), 1.0)
        slope = jnp.where(apart, jnp.sign(x) * jnp.power(part, jnp.expand_dims(power, axes)), 0.0)
        change += jnp.where(some, factor, 0.0) * jnp.sum(slope * dx, axes)
    if not all(isinstance(d, SymbolicZero) for d in (d_degree, d_eps)):
        numbers = [jnp.zeros((), x.dtype) if isinstance(d, SymbolicZero) else d for d in (d_degree, d_eps)]
        by_numbers = functools.partial(_distance_by_powers, x, axes)
        change += jax.jvp(by_numbers, (degree, eps), tuple(numbers))[1]
    return length, change


_distance.defjvp(_distance_jvp, symbolic_zeros=True)


# A power of 2, so that products with it are exact.
_UNIT = 2.0**-12


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _euclidean(
    a: jax.Array, others: list[jax.Array], axes: tuple[int, ...], eps: jax.Array
) -> list[jax.Array]:
    """`_distance` of degree 2 from `a` to several arrays in units of 1 / _UNIT, without powers.

    In that unit two lengths beyond the largest number have a difference. The derivative needs no scale.
    It takes the arrays, not their differences: a CPU writes out what a branch is given.
    """
    totals = [_square_sum(a - other, eps, axes) for other in others]
    lengths: list[jax.Array] = by_platform(
        totals,
        a,
        others,
        eps,
        cpu=functools.partial(_lengths_by_branch, axes=axes),
        accelerator=functools.partial(_lengths, axes=axes),
    )
    return lengths


def _square_sum(x: jax.Array, eps: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(jnp.square(x), axes) + eps


def _lengths(
    totals: list[jax.Array], a: jax.Array, others: list[jax.Array], eps: jax.Array, axes: tuple[int, ...]
) -> list[jax.Array]:
    """The roots of the sums. Where a sum overflows, it is taken of a shorter vector.

    Squares that underflow there are below the rounding error of a sum that large.
    """
    shorter = 2.0 ** (-5 * int(np.finfo(a.dtype).maxexp) // 8)
    lengths = []
    for total, other in zip(totals, others, strict=True):
        # The difference itself may overflow.
        scaled = _square_sum(a * shorter - other * shorter, eps * shorter * shorter, axes)
        root = jnp.sqrt(scaled) * (_UNIT / shorter)
        lengths.append(jnp.where(total < jnp.inf, jnp.sqrt(total) * _UNIT, root))
    return lengths


def _lengths_by_branch(totals: list[jax.Array], *arrays: Any, axes: tuple[int, ...]) -> list[jax.Array]:
    """`_lengths`, which reads the arrays again only where a sum overflows."""
    largest = jnp.max(functools.reduce(jnp.maximum, totals), initial=0.0)
    lengths: list[jax.Array] = jax.lax.cond(
        largest < jnp.inf,
        lambda totals, *_: [jnp.sqrt(total) * _UNIT for total in totals],
        functools.partial(_lengths, axes=axes),
        totals,
        *arrays,
    )
    return lengths


@_euclidean.defjvp
def _euclidean_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    (a, others, eps), (da, d_others, d_eps) = primals, tangents
    lengths = _euclidean(a, others, axes, eps)
    slopes = []
    for other, d_other, length in zip(others, d_others, lengths, strict=True):
        inverse = jnp.where(length > 0, 1.0 / jnp.where(length > 0, length, 1.0), 0.0)
        along = jnp.sum((_UNIT * a - _UNIT * other) * (da - d_other), axes)
        slopes.append(_UNIT * (inverse * (along + 0.5 * _UNIT * d_eps)))
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
        near, far = _euclidean(a, [p, n], axes, eps)
        further = (near - far) * (1.0 / _UNIT)
    else:
        further = _distance(a - p, axes, degree, eps) - _distance(a - n, axes, degree, eps)
    margin = parameter(name, "margin", margin, further)
    return positive_part(further + margin).astype(out)
