"""CTC: against sums over all alignments, and where alignments are few, none or certain."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import FRAMES, compare, log_softmax, normal

ctc = jax.jit(losses.ctc_loss, static_argnames="blank_id")


def call(x: Any, labels: Any, **kwargs: Any) -> Any:
    """One sequence without padding."""
    x, labels = jnp.asarray(x, jnp.float32)[None], jnp.asarray(labels, jnp.int32)[None]
    return ctc(x, jnp.zeros(x.shape[:2]), labels, jnp.zeros(labels.shape), **kwargs)[0]


def forward(x: np.ndarray, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of being in the blank after n labels, and in label n, after each frame."""
    p = np.exp(log_softmax(x))
    blank, label = np.zeros((len(x), len(labels) + 1)), np.zeros((len(x), len(labels)))
    old_blank, old_label = np.eye(len(labels) + 1)[0], np.zeros(len(labels))
    for t in range(len(x)):
        for n in range(len(labels) + 1):
            blank[t, n] = p[t, 0] * (old_blank[n] + (old_label[n - 1] if n else 0))
        for n, k in enumerate(labels):
            skip = old_label[n - 1] if n and labels[n - 1] != k else 0
            label[t, n] = p[t, k] * (old_label[n] + old_blank[n] + skip)
        old_blank, old_label = blank[t], label[t]
    return blank, label


def test_forward_probabilities() -> None:
    with jax.enable_x64(True):
        x, labels = normal(7, 4), [1, 2, 2, 3]
        args = (x[None], np.zeros((1, 7)), np.array([labels]), np.zeros((1, 4)))
        loss, blank, label = jax.jit(losses.ctc_loss_with_forward_probs)(*args)
        expected_blank, expected_label = forward(x, labels)
        expected_blank[-1, 1:] += expected_label[-1]
        assert (loss.shape, blank.shape, label.shape) == ((1,), (7, 1, 5), (7, 1, 4))
        for actual, expected in ((blank, expected_blank), (label, expected_label)):
            with np.errstate(divide="ignore"):
                compare(actual[:, 0], np.maximum(np.log(expected), -1e5), rtol=1e-12)
        assert loss[0] == -blank[-1, 0, 4]
        _, low, _ = jax.jit(losses.ctc_loss_with_forward_probs)(*args, log_epsilon=-7.0)
        assert low[0, 0, 4] == -7.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_second_derivatives_where_paths_are_equally_probable(dtype: Any) -> None:
    last, along = [0.1, 0.2, 0.3], np.array([0.3, -1.0, 0.7]) * [[1], [-0.5], [0.2]]
    frames = np.array([[[0, high, high], [high, high, 0], last] for high in (1.0, 30.0) for _ in range(4)])
    labels, no_label = (
        np.array([[1, 2], [1, 0], [1, 1], [0, 0]] * 2),
        np.array([[0, 0], [0, 1], [0, 0], [1, 1]] * 2),
    )

    def exact(x: np.ndarray, own: list[int]) -> float:
        blank, label = forward(x, own)
        return float(-np.log(blank[-1, -1] + (label[-1, -1] if own else 0)))

    owns = [list(row[gone == 0]) for row, gone in zip(labels, no_label, strict=True)]
    expected = [
        (exact(x + 1e-3 * along, own) - 2 * exact(x, own) + exact(x - 1e-3 * along, own)) * 1e6
        for x, own in zip(frames, owns, strict=True)
    ]
    with jax.enable_x64(dtype is np.float64):
        x = jnp.asarray(frames, dtype)
        loss = functools.partial(
            losses.ctc_loss, logit_paddings=np.zeros((8, 3)), labels=labels, label_paddings=no_label
        )
        tangents = (jnp.broadcast_to(jnp.asarray(along, dtype), x.shape),)
        _, change = jax.jit(lambda x: jax.jvp(jax.grad(lambda x: loss(x).sum()), (x,), tangents))(x)
        compare((change * tangents[0]).sum((1, 2)), expected, rtol=1e-5, atol=1e-5)


def test_what_is_padded_does_not_matter() -> None:
    x, no_frame, labels, no_label = FRAMES
    clean, slope = jax.value_and_grad(lambda x: ctc(x, no_frame, labels, no_label).sum())(
        jnp.asarray(x, jnp.float32)
    )
    run = jax.value_and_grad(lambda x, y: ctc(x, no_frame, y, no_label).sum())
    for poison, label in ((np.nan, -1), (np.inf, 99), (-np.inf, 0)):
        bad = jnp.asarray(np.where(no_frame[..., None] > 0, poison, x), jnp.float32)
        value, gradient = run(bad, np.where(no_label > 0, label, labels).astype(np.int32))
        compare(value, clean, rtol=1e-6)
        compare(gradient, slope, rtol=1e-5, atol=1e-7)
        assert not np.any(np.asarray(gradient)[no_frame > 0])
    for kind in (bool, np.int32, jnp.bfloat16):
        compare(ctc(bad, no_frame.astype(kind), labels, no_label.astype(kind)).sum(), clean, rtol=1e-6)


def test_padded_frames_may_be_anywhere() -> None:
    x = normal(5, 3)
    with_gap = np.insert(x, 2, np.nan, axis=0)
    args = (jnp.asarray(with_gap, jnp.float32)[None], np.array([[0, 0, 1, 0, 0, 0]]), np.array([[1, 2]]))
    compare(ctc(*args, np.zeros((1, 2)))[0], call(x, [1, 2]), rtol=1e-6)


def test_never_negative_for_certain_alignments() -> None:
    x = np.zeros((400, 1, 2))
    x[..., 1] = np.linspace(1, 40, 400)[:, None]
    frames = jnp.asarray(np.repeat(x, 30, axis=1), jnp.float32)
    args = jnp.zeros((400, 30)), jnp.ones((400, 1), jnp.int32), jnp.zeros((400, 1))
    assert np.all(ctc(frames, *args) >= 0)
    slope = jax.jit(jax.grad(lambda x: ctc(x, *args).sum()))(frames)
    assert np.all(np.isfinite(slope))
    assert call([[0.0, 17.0], [0.0, 17.0]], [1]) >= 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_labels_that_do_not_fit_cost_a_finite_amount(dtype: Any) -> None:
    x = jnp.asarray(normal(3, 3, 3), dtype)
    labels, no_label = (
        jnp.asarray([[1, 2, 1, 2], [1, 1, 2, 0], [1, 2, 1, 0]]),
        np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]),
    )
    value, slope = jax.jit(
        jax.vmap(jax.value_and_grad(lambda x, *rest: losses.ctc_loss(x[None], *(r[None] for r in rest))[0]))
    )(x, jnp.zeros((3, 3)), labels, no_label)
    limit = min(1e5, float(jnp.finfo(dtype).max))
    compare(value[:2], limit, rtol=1e-2)
    assert value[2] < 20
    assert not np.any(slope[:2])
    assert np.all(np.isfinite(slope))
    low = ctc(x, jnp.zeros((3, 3)), labels, no_label, log_epsilon=-50.0)
    compare(low, jnp.minimum(value.astype(jnp.float32), 50), rtol=1e-2)


def test_extreme_logits_keep_the_order_of_paths() -> None:
    x = np.full((6, 3), -1e4)
    x[:, 0] = 1e4  # a label costs 2e4: five of them cost as much as log_epsilon, six cost more
    compare(call(x, [1, 2, 1, 2, 1]), 1e5 - np.log(6), rtol=1e-6)
    compare(call(np.repeat(x, 2, axis=0), [1, 1, 1, 1, 1, 1]), 1.2e5 - np.log(7), rtol=1e-6)
    impossible = np.zeros((4, 3))
    impossible[:, 2] = -np.inf
    compare(call(impossible, [2]), 1e5, rtol=1e-6)
    compare(call(impossible, [1]), -np.log(10 / 16), rtol=1e-6)  # runs of ones among four frames: 10
    slope = jax.grad(lambda x: call(x, [1]) + call(x, [2]))(jnp.asarray(impossible, jnp.float32))
    assert np.all(np.isfinite(slope))


def test_long_sequences_in_forward_mode_too() -> None:
    x = jnp.zeros((1, 600, 5), jnp.float32)
    f = functools.partial(
        losses.ctc_loss,
        logit_paddings=jnp.zeros((1, 600)),
        labels=jnp.ones((1, 9), jnp.int32),
        label_paddings=jnp.zeros((1, 9)),
    )
    value, tangent = jax.jit(lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),)))(x)
    assert np.all(np.isfinite(value))
    compare(tangent, 0, atol=1e-2)


def test_no_labels_and_no_frames() -> None:
    x = normal(4, 3)
    compare(call(x, []), -log_softmax(x)[:, 0].sum(), rtol=1e-6)
    assert call(x[:0], []) == 0
    assert call(x[:0], [1]) == 1e5


def test_any_class_may_be_the_blank() -> None:
    x = normal(6, 4)
    moved = call(x[:, [1, 2, 0, 3]], [0, 1, 1], blank_id=2)
    compare(moved, call(x, [1, 2, 2]), rtol=1e-6)


def test_mistakes() -> None:
    x, no_frame, labels, no_label = (
        jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else None) for a in FRAMES
    )
    assert np.array_equal(
        np.isnan(ctc(x, no_frame, labels.at[0, 1].set(3), no_label)), [True, False, False, False]
    )
    assert np.array_equal(
        np.isnan(ctc(x, no_frame, labels.at[0, 1].set(-1), no_label)), [True, False, False, False]
    )
    with pytest.raises(
        ValueError, match=r"ctc_loss: argument 'logits' must have shape .*got \(4, 3\) and \(4, 2\)"
    ):
        losses.ctc_loss(x[0], no_frame, labels, no_label)
    with pytest.raises(ValueError, match=r"^ctc_loss_with_forward_probs: argument 'logits' must have shape"):
        losses.ctc_loss_with_forward_probs(x[0], no_frame, labels, no_label)
    with pytest.raises(ValueError, match=r"ctc_loss: argument 'logits' must .*got \(4, 4, 3\) and \(3, 2\)"):
        losses.ctc_loss(x, no_frame, labels[:3], no_label)
    with pytest.raises(
        ValueError,
        match=r"ctc_loss: argument 'logit_paddings' must have the shape of .*\(4, 4\); got \(4, 3\)",
    ):
        losses.ctc_loss(x, no_frame[:, :3], labels, no_label)
    with pytest.raises(
        ValueError,
        match=r"ctc_loss: argument 'label_paddings' must have the shape of labels, \(4, 2\); got \(2,\)",
    ):
        losses.ctc_loss(x, no_frame, labels, no_label[0])
    with pytest.raises(TypeError, match="ctc_loss: argument 'labels' must be integers; got dtype float32"):
        losses.ctc_loss(x, no_frame, no_label, no_label)
    for blank_id in (3, -1):
        with pytest.raises(
            ValueError, match=rf"ctc_loss: argument 'blank_id' must lie in \[0, 2\]; got {blank_id}"
        ):
            losses.ctc_loss(x, no_frame, labels, no_label, blank_id=blank_id)
    with pytest.raises(ValueError, match="ctc_loss: argument 'log_epsilon' must lie in"):
        losses.ctc_loss(x, no_frame, labels, no_label, log_epsilon=1.0)
