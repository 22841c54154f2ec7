"""Cross entropies of logits, and their focal and poly variants.

Results have the promoted dtype of the floating-point inputs; arithmetic below 32 bits is done
in float32. Integer and boolean `labels` are converted to the logits' dtype.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from gradflow._dtypes import DType, compute_dtype
from gradflow._tracebacks import one_frame
from gradflow.losses._classes import class_labels, flatten_axes, is_class, pick
from gradflow.losses._inputs import Axis, axes_of, keep, mask_of, pair, parameter, real
from gradflow.losses._logspace import cross_entropy, log_softmax, weigh

_NAMES = ("logits", "labels")


@jax.custom_jvp
def _binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    # One exponential in the place of two softplus; 0 * inf is 0, at infinite logits that are right.
    right, wrong = -jnp.maximum(-logits, 0), -jnp.maximum(logits, 0)
    return jnp.log1p(jnp.exp(-jnp.abs(logits))) - weigh(labels, right) - weigh(1.0 - labels, wrong)


def _binary_cross_entropy_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    """`(sigmoid(x) - y) dx - x dy`, which keeps small numbers, and has the second derivative at zero."""
    (x, y), (dx, dy) = primals, tangents
    value = _binary_cross_entropy(x, y)
    change = jnp.zeros_like(value)
    if not isinstance(dx, SymbolicZero):
        change += ((1.0 - y) * jax.nn.sigmoid(x) - y * jax.nn.sigmoid(-x)) * dx
    if not isinstance(dy, SymbolicZero):
        change -= x * dy
    return value, change


_binary_cross_entropy.defjvp(_binary_cross_entropy_jvp, symbolic_zeros=True)


@one_frame
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Cross entropy of independent yes/no predictions, with p = sigmoid(logits).

        loss = -labels * log(p) - (1 - labels) * log(1 - p)

    Args:
      logits: log odds, any shape.
      labels: probabilities in [0, 1] (or 0 and 1), in a shape that broadcasts with the logits'.

    Returns:
      One loss for each logit.

    Raises:
      ValueError: the shapes do not broadcast. Both changing is a warning.
      TypeError: logits are not real floating-point numbers.

    Source: Goodfellow et al. 2016, "Deep Learning", section 6.2.2.2.

    >>> import gradflow as gf
    >>> gf.sigmoid_binary_cross_entropy([-50.0, 50.0], [1, 0]).tolist()
    [50.0, 50.0]
    """
    x, y, out = pair("sigmoid_binary_cross_entropy", _NAMES, logits, labels, broadcast=True)
    return _binary_cross_entropy(x, y).astype(out)


def _miss(x: jax.Array, y: jax.Array) -> jax.Array:
    """The probability of the other outcome, and at least the smallest normal number."""
    miss = y * jax.nn.sigmoid(-x) + (1.0 - y) * jax.nn.sigmoid(x)
    return jnp.maximum(miss, float(np.finfo(x.dtype).tiny))


@jax.custom_jvp
def _focus(x: jax.Array, y: jax.Array, gamma: jax.Array) -> jax.Array:
    """miss**gamma."""
    return jnp.power(_miss(x, y), gamma)


def _focus_jvp(primals: tuple[Any, Any, Any], tangents: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    """`gamma * focus * (share - sigmoid(x)) dx`: no power below gamma, which a small miss makes infinite."""
    (x, y, gamma), (dx, dy, d_gamma) = primals, tangents
    focus = _focus(x, y, gamma)
    change = jnp.zeros_like(focus)
    if not isinstance(dx, SymbolicZero):
        change += gamma * focus * (_share_of_negatives(x, y) - jax.nn.sigmoid(x)) * dx
    if not isinstance(dy, SymbolicZero):
        change += gamma * (focus / _miss(x, y)) * (jax.nn.sigmoid(-x) - jax.nn.sigmoid(x)) * dy
    if not isinstance(d_gamma, SymbolicZero):
        change += focus * jnp.log(_miss(x, y)) * d_gamma
    return focus, change


_focus.defjvp(_focus_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _share_of_negatives(x: jax.Array, y: jax.Array) -> jax.Array:
    """(1 - y) * sigmoid(x) / miss, which is sigmoid(x + log((1 - y) / y))."""
    return (1.0 - y) * jax.nn.sigmoid(x) / _miss(x, y)


def _share_of_negatives_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, y), (dx, dy) = primals, tangents
    share = _share_of_negatives(x, y)
    change = jnp.zeros_like(share)
    if not isinstance(dx, SymbolicZero):
        change += share * (1.0 - share) * dx
    if not isinstance(dy, SymbolicZero):
        miss = _miss(x, y)
        change -= (jax.nn.sigmoid(x) / miss) * (jax.nn.sigmoid(-x) / miss) * dy
    return share, change


_share_of_negatives.defjvp(_share_of_negatives_jvp, symbolic_zeros=True)


@one_frame
def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> jax.Array:
    """Binary cross entropy with lower weights for predictions that are already right.

        miss = labels * (1 - p) + (1 - labels) * p          with p = sigmoid(logits)
        loss = weight * miss**gamma * sigmoid_binary_cross_entropy(logits, labels)
        weight = alpha * labels + (1 - alpha) * (1 - labels), or 1 when alpha is None

    Args:
      logits: log odds, any shape.
      labels: probabilities in [0, 1] (or 0 and 1), in a shape that broadcasts with that of the logits.
      alpha: weight of the positive class in [0, 1]; a scalar, or broadcast to the logits. -1 is None.
      gamma: how strongly easy examples are weighted down, >= 0; 0 is plain cross entropy.

    Returns:
      One loss for each logit.

    Raises:
      ValueError: the shapes do not broadcast, or alpha or gamma is out of range.
      TypeError: logits are not real floating-point numbers.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002.
    """
    name = "sigmoid_focal_loss"
    x, y, out = pair(name, _NAMES, logits, labels, broadcast=True)
    gamma = jnp.broadcast_to(parameter(name, "gamma", gamma, x, low=0.0), x.shape)
    entropy, weight = _binary_cross_entropy(x, y), _focus(x, y, gamma)
    # The weight is constant where the cross entropy is large; its slope 0 times infinity, which `gamma` times
    # 3e38 is as well, would be NaN.
    large = float(np.finfo(x.dtype).max) ** 0.5
    loss = entropy * jnp.where(entropy < large, weight, jax.lax.stop_gradient(weight))
    if alpha is not None and not (isinstance(alpha, int | float) and alpha == -1):
        alpha = parameter(name, "alpha", alpha, x, low=0.0, high=1.0)
        loss = loss * (alpha * y + (1.0 - alpha) * (1.0 - y))
    return loss.astype(out)


def _masked_log_softmax(
    function: str, logits: ArrayLike, labels: ArrayLike, axis: Axis, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, tuple[int, ...], DType]:
    """Log probabilities and labels (0 where masked), the axes of the classes, the result's dtype."""
    hint = ". For class indices call softmax_cross_entropy_with_integer_labels"
    x, y, out = pair(function, _NAMES, logits, labels, broadcast=True, hint=hint)
    axes = axes_of(function, axis, x.ndim)
    mask = mask_of(function, where, x.shape, axes)
    return log_softmax(x, axes, mask), keep(mask, y), axes, out


@one_frame
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Cross entropy of one choice among classes: -sum(labels * log(softmax(logits))).

    A class with logit -inf and label 0 adds nothing; a logit of inf has all of the probability.

    Args:
      logits: log probabilities up to a constant, shape [..., classes].
      labels: probabilities of the classes (for example one-hot), in a shape that broadcasts.
      axis: axis or axes of the classes; None means all.
      where: elements to include, of the logits' shape or without `axis`; the softmax is over
        these only, and a slice without any has loss 0.

    Returns:
      Losses of shape [...].

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: logits are not real floating-point numbers.

    Source: Goodfellow et al. 2016, "Deep Learning", section 6.2.2.3.

    >>> import gradflow as gf
    >>> one_hot = [[0.0, 1.0], [1.0, 0.0]]
    >>> gf.softmax_cross_entropy([[50.0, 0.0], [0.0, 50.0]], one_hot).tolist()
    [50.0, 50.0]
    """
    log_p, y, axes, out = _masked_log_softmax("softmax_cross_entropy", logits, labels, axis, where)
    return cross_entropy(y, log_p, axes).astype(out)


@one_frame
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """`softmax_cross_entropy(logits, labels)` under the field's name for it.

    Both are safe for logits of -inf: 0 * log(0) counts as 0.
    """
    log_p, y, axes, out = _masked_log_softmax("safe_softmax_cross_entropy", logits, labels, -1, None)
    return cross_entropy(y, log_p, axes).astype(out)


@one_frame
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Cross entropy of one choice among classes: -log(softmax(logits)[label]).

    Args:
      logits: log probabilities up to a constant, shape [..., classes].
      labels: integer class indices, shape [...].
      axis: axis or axes of the classes; for several, labels index their flattening in the
        order given. None means all.
      where: elements to include, of the logits' shape or without `axis`. A slice without any,
        or whose label is left out, has loss 0.

    Returns:
      Losses >= 0 of shape [...], in the dtype of logits; NaN where a label is not a class, -1
      included.

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: logits are not floating-point, or labels not integer.

    >>> import gradflow as gf
    >>> indices = [1, 0]
    >>> gf.softmax_cross_entropy_with_integer_labels([[50.0, 0.0], [0.0, 50.0]], indices).tolist()
    [50.0, 50.0]
    """
    name = "softmax_cross_entropy_with_integer_labels"
    x = real(name, "logits", logits)
    out = x.dtype
    x = x.astype(compute_dtype(out))
    axes = axes_of(name, axis, x.ndim)
    indices = class_labels(name, labels, x.shape, axes)
    mask = mask_of(name, where, x.shape, axes)
    if mask is not None:
        x = jnp.where(mask, x, -jnp.inf)
    x, k = flatten_axes(x, axes)
    if not x.shape[k]:
        raise ValueError(f"{name}: argument 'logits' must have a class along axis {axis}; got {x.shape}")
    loss = _choice(x, indices, k)
    if mask is not None:
        mask, _ = flatten_axes(mask, axes)
        included = jnp.any(mask, k, keepdims=True) & pick(mask, indices, k)
        loss = jnp.where(jnp.squeeze(included, k), loss, 0.0)
    return loss.astype(out)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _choice(x: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """-log(softmax(x)[label]) along `axis`."""
    peak, _, total = _exponentials(x, axis)
    own = jnp.squeeze(pick(x, labels, axis), axis)
    # A finite logit beside an infinite one has no probability. A label that is not a class gives NaN.
    ahead = jnp.where((peak == jnp.inf) & (own < jnp.inf), jnp.inf, _finite(peak) - own)
    return jnp.log(total) + jnp.where(own == jnp.inf, 0.0, ahead)


@_choice.defjvp
def _choice_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The derivative of `pick` would scatter into the other part; here one pass over the classes has both.
    (x, labels), dx = primals, tangents[0]
    _, parts, total = _exponentials(x, axis)
    own = jnp.where(is_class(labels, x.shape, axis), dx, 0.0)
    change = jnp.sum(parts * dx, axis) * (1.0 / total) - jnp.sum(own, axis)
    return _choice(x, labels, axis), change


def _exponentials(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The peak along `axis`, `exp(x - peak)`, and its sum; 1 where that is 0.

    The peak and the sum are without `axis`: on a CPU their logarithm takes a third longer in an axis of 1.
    """
    peak = jnp.max(jax.lax.stop_gradient(x), axis, initial=-jnp.inf)
    parts = _share(x - jnp.expand_dims(_finite(peak), axis))
    total = jnp.sum(parts, axis)
    return peak, parts, jnp.where(total == 0, 1.0, total)


@jax.custom_jvp
def _share(below: jax.Array) -> jax.Array:
    """`exp(below)`, and 1 where that is more: infinite logits share all of the probability.

    On a CPU `exp(minimum(below, 0))` makes the loss take 1.3 times as long.
    """
    share = jnp.exp(below)
    return jnp.where(share > 1, 1.0, share)


@_share.defjvp
def _share_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    share = _share(primals[0])
    return share, share * tangents[0]


def _finite(peak: jax.Array) -> jax.Array:
    largest = float(np.finfo(peak.dtype).max)
    return jnp.clip(peak, -largest, largest)


@one_frame
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Poly-1 loss, with p = softmax(logits).

        loss = softmax_cross_entropy(logits, labels) + epsilon * sum(labels * (1 - p))

    Args:
      logits: log probabilities up to a constant, shape [..., classes].
      labels: probabilities of the classes (for example one-hot), in a shape that broadcasts.
      epsilon: coefficient of the first power of 1 - p, a scalar or broadcast to the result;
        the paper uses 2 for image classification and -1 for detection.
      axis: axis or axes of the classes; None means all.
      where: elements to include, as in `softmax_cross_entropy`.

    Returns:
      Losses of shape [...].

    Raises:
      ValueError: shapes, axis or where do not fit.
      TypeError: logits are not real floating-point numbers.

    Source: Leng et al. 2022, "PolyLoss", arXiv:2204.12511.
    """
    name = "poly_loss_cross_entropy"
    log_p, y, axes, out = _masked_log_softmax(name, logits, labels, axis, where)
    loss = cross_entropy(y, log_p, axes)
    missed = jnp.sum(y * -jnp.expm1(log_p), axes)
    epsilon = parameter(name, "epsilon", epsilon, loss)
    return (loss + epsilon * missed).astype(out)
