"""Connectionist temporal classification: the loss of label sequences without alignment to frames."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradflow._checked import Number, checked
from gradflow._dtypes import compute_dtype
from gradflow.losses._inputs import integer, number, parameter, real, same_shape
from gradflow.losses._logspace import clamp, log_softmax

# Represents log(0). It is finite, so that gradients never compute inf - inf. It is far below the log
# probability of any alignment, so that a sum with one still counts as unreachable.
_UNREACHABLE = -1e30


@jax.custom_jvp
def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(exp(a) + exp(b)); its two partial derivatives sum to 1 everywhere.

    Second derivatives of a scan are those of these operations, not of the rule below. So equal numbers are
    told apart: the second derivative of `maximum` and `abs` is 0 there, where that of the sum is 1/4.
    """
    above = a >= b
    return jnp.where(above, a, b) + jnp.log1p(jnp.exp(jnp.where(above, b - a, a - b)))


@_log_add.defjvp
def _log_add_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (a, b), (da, db) = primals, tangents
    share = jax.nn.sigmoid(a - b)
    return _log_add(a, b), share * da + (1.0 - share) * db


def _forward(log_symbol: jax.Array, may_skip: jax.Array, padded: jax.Array) -> jax.Array:
    """log alpha of every symbol before each frame and after the last: frames + 1 rows.

    `log_symbol` (frames, batch, symbols) holds the log probabilities of blank, label, blank,
    label, ..., blank. A path stays, moves by one symbol, or by two where it may skip a blank.
    """
    symbols = log_symbol.shape[2]
    start = jnp.full(log_symbol.shape[1:], _UNREACHABLE, log_symbol.dtype)
    # Before the first frame a path is at the first blank, from which it may stay or move to the label.
    start = start.at[:, 0].set(0.0)

    def moved(alpha: jax.Array, by: int) -> jax.Array:
        return jnp.pad(alpha, ((0, 0), (by, 0)), constant_values=_UNREACHABLE)[:, :symbols]

    def step(alpha: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        log_p, ignore = frame
        skipped = jnp.where(may_skip, moved(alpha, 2), _UNREACHABLE)
        new = _log_add(_log_add(alpha, moved(alpha, 1)), skipped) + log_p
        new = jnp.where(ignore[:, None], alpha, new)
        return new, new

    _, alphas = jax.lax.scan(step, start, (log_symbol, padded))
    return jnp.concatenate([start[None], alphas])


_BLANK = Number(whole=True, static=True)


@checked(blank_id=_BLANK)
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CTC loss and its forward probabilities. Arguments and errors as in `ctc_loss`.

        blank[t, n] = p_t[blank] * (blank[t-1, n] + label[t-1, n])
        label[t, n] = p_t[label n] * (label[t-1, n] + blank[t-1, n-1] + skip[n] * label[t-1, n-1])
        loss = -log(blank[T, N] + label[T, N]), skip[n] = whether labels n-1 and n differ

    Returns:
      `(loss, logalpha_blank, logalpha_nonblank)`, of shapes (B,), (T, B, N + 1) and (T, B, N),
      in the dtype of logits. The alphas are the logarithms of the above, `log_epsilon` for
      probability 0. In the last frame's row `logalpha_blank` has label[T, n] added, so that
      `-logalpha_blank[-1, b, number of labels]` is the loss.
    """
    name = "ctc_loss_with_forward_probs"
    return _with_forward_probs(name, logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)


def _with_forward_probs(
    name: str,
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    blank_id: int,
    log_epsilon: ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = real(name, "logits", logits)
    y = integer(name, "labels", labels)
    if x.ndim != 3 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{name}: argument 'logits' must have shape (batch, frames, classes) and labels (batch, labels); "
            f"got {x.shape} and {y.shape}"
        )
    no_frame = number(name, "logit_paddings", logit_paddings).astype(np.bool_)
    no_label = number(name, "label_paddings", label_paddings).astype(np.bool_)
    same_shape(name, "logit_paddings", no_frame, "logits without classes", x.shape[:2])
    same_shape(name, "label_paddings", no_label, "labels", y.shape)
    classes = x.shape[2]
    if not 0 <= blank_id < classes:
        raise ValueError(f"{name}: argument 'blank_id' must lie in [0, {classes - 1}]; got {blank_id}")
    out = x.dtype
    x = jnp.where(no_frame[..., None], 0.0, x.astype(compute_dtype(out)))
    floor = parameter(name, "log_epsilon", log_epsilon, jnp.zeros((), x.dtype), high=0.0)
    floor = jnp.maximum(floor, float(jnp.finfo(out).min))  # float16 has no -1e5

    log_p = jnp.maximum(jnp.swapaxes(log_softmax(x, (2,)), 0, 1), _UNREACHABLE)
    y = jnp.where(no_label, blank_id, y)
    y = jnp.where(y < 0, classes, y)  # an index past the end reads NaN, a negative one would wrap
    log_label = jnp.take_along_axis(log_p, y[None], 2, mode="fill")
    log_blank = log_p[:, :, blank_id, None]
    both = jnp.stack([jnp.broadcast_to(log_blank, log_label.shape), log_label], 3)
    log_symbol = jnp.concatenate([both.reshape((*both.shape[:2], 2 * y.shape[1])), log_blank], 2)
    # A path never skips a label, nor the blank between two equal labels.
    symbols = jnp.full((y.shape[0], 2 * y.shape[1] + 1), blank_id, y.dtype).at[:, 1::2].set(y)
    may_skip = jnp.pad(symbols[:, 2:] != symbols[:, :-2], ((0, 0), (2, 0)))[:, : symbols.shape[1]]
    alphas = _forward(log_symbol, may_skip, no_frame.T)

    blank, label = alphas[:, :, 0::2], alphas[:, :, 1::2]
    ended = jnp.concatenate([blank[-1, :, :1], _log_add(blank[-1, :, 1:], label[-1])], axis=1)
    blank = jnp.concatenate([blank[1:-1], ended[None]]) if x.shape[1] else blank[1:]
    length = jnp.sum(~no_label, 1, keepdims=True, dtype=np.int32)
    total = jnp.take_along_axis(ended, length, 1)[:, 0]
    loss = jnp.where(total < 0.5 * _UNREACHABLE, -floor, clamp(-total, 0.0, jnp.inf))

    def report(alpha: jax.Array) -> jax.Array:
        return jnp.where(alpha < 0.5 * _UNREACHABLE, floor, alpha).astype(out)

    return loss.astype(out), report(blank), report(label[1:])


@checked(blank_id=_BLANK)
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> jax.Array:
    """Minus log of the probability of all frame sequences that collapse to the labels.

    Args:
      logits: (batch, frames, classes), the blank among the classes.
      logit_paddings: (batch, frames), nonzero for frames to ignore, whatever they hold.
      labels: integers, (batch, labels).
      label_paddings: (batch, labels), nonzero for labels to ignore; only at the end of a row.
      blank_id: the class of the blank.
      log_epsilon: logarithm that represents probability 0.

    Returns:
      Losses >= 0 of shape (batch,), in the dtype of logits: -log_epsilon, with zero gradient,
      where the labels do not fit into the frames, and NaN where a label is not a class.

    Raises:
      ValueError: shapes do not fit, or blank_id is not a class.
      TypeError: logits are not floating-point, or labels not integer.

    Source: Graves et al. 2006, "Connectionist Temporal Classification".
    """
    return _with_forward_probs(
        "ctc_loss", logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon
    )[0]
