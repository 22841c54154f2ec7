"""Cross entropies: extremes, impossible classes, several axes, label smoothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gradflow import losses
from losses.cases import compare, cross_entropy, one_hot

RNG = np.random.default_rng(4)
INTEGER = jax.jit(losses.softmax_cross_entropy_with_integer_labels, static_argnames="axis")
DENSE = [jax.jit(losses.softmax_cross_entropy), jax.jit(losses.safe_softmax_cross_entropy)]


def test_binary_cross_entropy_keeps_its_digits() -> None:
    x = jnp.asarray([-1e4, -50.0, 0.0, 50.0, 1e4], jnp.float32)
    compare(losses.sigmoid_binary_cross_entropy(x, 1), [1e4, 50, np.log(2), np.exp(-50), 0], rtol=1e-6)
    compare(losses.sigmoid_binary_cross_entropy(x, False), [0, np.exp(-50), np.log(2), 50, 1e4], rtol=1e-6)
    slope = jax.grad(lambda x: losses.sigmoid_binary_cross_entropy(x, 1).sum())(x)
    compare(slope, [-1, -1, -0.5, -np.exp(-50), 0], rtol=1e-6)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    x, y = (jnp.asarray(v, jnp.float32) for v in (RNG.normal(size=9) * 5, RNG.random(9)))
    plain = losses.sigmoid_binary_cross_entropy(x, y)
    compare(losses.sigmoid_focal_loss(x, y, gamma=0.0), plain, rtol=1e-6)
    compare(losses.sigmoid_focal_loss(x, y, gamma=0.0, alpha=0.5), 0.5 * plain, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_loss_at_saturation(gamma: float) -> None:
    x = np.array([-1e4, -300.0, -90.0, 90.0, 300.0, 1e4], np.float32)
    for label in (0, 1):
        f = jax.value_and_grad(lambda x, g, y=label: losses.sigmoid_focal_loss(x, y, gamma=g).sum(), (0, 1))
        value, (slope, by_gamma) = f(x, gamma)
        compare(value, 1e4 + 390, rtol=1e-5)
        compare(slope, (label == 0) * (x > 0) - 1.0 * (label == 1) * (x < 0), atol=1e-6)
        assert np.isfinite(by_gamma)
        far = jnp.asarray([3e38, -3e38], jnp.float32)
        compare(f(far, gamma)[1][0], [float(label == 0), -float(label == 1)], rtol=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_second_derivatives_of_focal_loss_are_finite_where_predictions_are_right(label: float) -> None:
    x, y = np.array([-200.0, -100, -60, -25, -2, 0, 0.5, 3, 25, 60, 100, 200]), np.float32(label)

    def exact(x: np.ndarray, gamma: float) -> np.ndarray:
        p, q = special.expit(x), special.expit(-x)
        entropy = -label * special.log_expit(x) - (1 - label) * special.log_expit(-x)
        miss, bend = label * q + (1 - label) * p, p * q * (1 - 2 * label)
        power = [miss**gamma, gamma * miss ** (gamma - 1) * bend]
        power.append(power[1] * ((gamma - 1) * bend / miss + q - p))
        return np.asarray(power[2] * entropy + 2 * power[1] * (p - label) + power[0] * p * q)

    def curvature(x: Any, gamma: Any) -> Any:
        def slope(x: Any) -> Any:
            return jax.grad(lambda x: losses.sigmoid_focal_loss(x, y, gamma=gamma).sum())(x)

        return jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]

    run = jax.jit(curvature)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        compare(run(jnp.asarray(x, jnp.float32), gamma), exact(x, gamma), rtol=1e-5, atol=1e-7)


def test_focal_alpha_may_differ_between_classes() -> None:
    x, y = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), jnp.asarray(RNG.integers(0, 2, (4, 3)))
    alpha = jnp.asarray([[0.1, 0.5, 0.9]], jnp.float32)
    columns = [losses.sigmoid_focal_loss(x[:, i], y[:, i], alpha=float(a)) for i, a in enumerate(alpha[0])]
    compare(losses.sigmoid_focal_loss(x, y, alpha=alpha), jnp.stack(columns, 1), rtol=1e-6)
    for none in (-1, -1.0):  # as in torchvision
        compare(losses.sigmoid_focal_loss(x, y, alpha=none), losses.sigmoid_focal_loss(x, y), rtol=0)
    with pytest.raises(
        ValueError, match=r"sigmoid_focal_loss: argument 'alpha' must lie in \[0.0, 1.0\]; got 2"
    ):
        losses.sigmoid_focal_loss(x, y, alpha=2)
    with pytest.raises(ValueError, match="sigmoid_focal_loss: argument 'gamma' must lie in"):
        losses.sigmoid_focal_loss(x, y, gamma=-1.0)


@pytest.mark.parametrize("loss", DENSE)
def test_an_impossible_class_without_label_adds_nothing(loss: Any) -> None:
    x = jnp.asarray([[1.0, -jnp.inf, 0.0], [-jnp.inf, 2.0, -jnp.inf]], jnp.float32)
    y = jnp.asarray([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]], jnp.float32)
    value, (by_x, by_y) = jax.value_and_grad(lambda x, y: loss(x, y).sum(), (0, 1))(x, y)
    log_p = np.array([1, 0]) - np.log(np.e + 1)
    compare(value, -(np.array([0.25, 0.75]) @ log_p), rtol=1e-6)
    compare(by_x, [[np.exp(log_p[0]) - 0.25, 0, np.exp(log_p[1]) - 0.75], [0, 0, 0]], atol=1e-6)
    assert np.all(np.isfinite(by_y))
    compare(loss(x, jnp.asarray([[0, 1, 0], [0, 1, 0]])), [np.inf, 0], rtol=0)


def test_impossible_classes_with_integer_labels() -> None:
    x = jnp.asarray([[1.0, -jnp.inf, 0.0], [-jnp.inf, 2.0, -jnp.inf], [0.0, -jnp.inf, 0.0]], jnp.float32)
    y = jnp.asarray([2, 1, 1])
    compare(INTEGER(x, y), [np.log(1 + np.e), 0, np.inf], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda x: INTEGER(x, y).sum())(x)))


def test_labels_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"argument 'logits' must have a class along axis -1; got \(2, 0\)"):
        losses.softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 0)), jnp.zeros(2, int))


def test_integer_labels_are_one_hot_labels() -> None:
    x = jnp.asarray(RNG.normal(size=(40, 6)) * 30, jnp.float32)
    y = RNG.integers(0, 6, 40)
    compare(
        INTEGER(x, y), losses.softmax_cross_entropy(x, one_hot(y, 6).astype(np.int32)), rtol=1e-5, atol=1e-6
    )
    assert INTEGER(x, y).min() >= 0
    assert INTEGER(x, x.argmax(-1)).min() >= 0


@pytest.mark.parametrize("axis", [0, 1, -1, (1, 2), (2, 0), (0, 1, 2), None])
def test_integer_labels_along_any_axes(axis: Any) -> None:
    x = RNG.normal(size=(2, 3, 4))
    axes = tuple(range(3)) if axis is None else tuple(a % 3 for a in np.atleast_1d(axis))
    rest = [a for a in range(3) if a not in axes]
    flat = x.transpose(*rest, *axes).reshape(*(x.shape[a] for a in rest), -1)
    y = RNG.integers(0, flat.shape[-1], flat.shape[:-1])
    expected = cross_entropy(flat, one_hot(y, flat.shape[-1]))
    compare(INTEGER(jnp.asarray(x, jnp.float32), jnp.asarray(y), axis=axis), expected, rtol=1e-5)
    mask = RNG.random(x.shape) < 0.7
    flat_mask = mask.transpose(*rest, *axes).reshape(flat.shape)
    np.put_along_axis(flat_mask, y[..., None], True, -1)
    where = flat_mask.reshape([x.shape[a] for a in (*rest, *axes)]).transpose(np.argsort([*rest, *axes]))
    expected = cross_entropy(np.where(flat_mask, flat, -1e9), one_hot(y, flat.shape[-1]))
    actual = INTEGER(
        jnp.asarray(np.where(where, x, np.nan), jnp.float32), jnp.asarray(y), axis=axis, where=where
    )
    compare(actual, expected, rtol=1e-5, atol=1e-6)


def test_where_with_integer_labels() -> None:
    x = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    y = jnp.asarray([0, 1, 2, -1])
    where = jnp.asarray([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
    x = jnp.where(where, x, jnp.nan)
    value, slope = jax.value_and_grad(lambda x: INTEGER(x, y, where=where).sum())(x)
    # A full row, one whose label is left out, and two that are left out whatever their labels.
    compare(INTEGER(x, y, where=where), [INTEGER(x[0], y[0]), 0, 0, 0], rtol=1e-6)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))
    assert not np.any(slope[1:])
    compare(
        INTEGER(x, y, where=jnp.asarray([True, False, False, False])), INTEGER(x, y, where=where), rtol=1e-6
    )
    assert np.isnan(INTEGER(jnp.zeros((1, 3)), jnp.asarray([-1]), where=jnp.ones((1, 3), bool))[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_low_precision_logits_far_apart(dtype: Any) -> None:
    x = jnp.asarray([[1e4, -1e4, 0.0]], dtype)
    for label, expected in ((0, 0.0), (1, 2e4), (2, 1e4)):
        compare(INTEGER(x, jnp.asarray([label])), expected, rtol=1e-2)
        compare(
            losses.softmax_cross_entropy(x, jax.nn.one_hot(jnp.asarray([label]), 3, dtype=dtype)),
            expected,
            rtol=1e-2,
        )


def test_poly_loss_bends_cross_entropy() -> None:
    x = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    y = jax.nn.one_hot(jnp.asarray([0, 1, 2, 0]), 3)
    plain = losses.softmax_cross_entropy(x, y)
    compare(losses.poly_loss_cross_entropy(x, y, epsilon=0.0), plain, rtol=1e-6)
    compare(losses.poly_loss_cross_entropy(x, y, epsilon=-1.0), plain - (1 - np.exp(-plain)), rtol=1e-5)
    each = jnp.asarray([0.0, 1.0, 2.0, -1.0], jnp.float32)
    compare(
        losses.poly_loss_cross_entropy(x, y, epsilon=each), plain + each * (1 - np.exp(-plain)), rtol=1e-5
    )


def test_smoothing_over_the_classes_that_count() -> None:
    y = jax.nn.one_hot(jnp.asarray([0, 2]), 4)
    compare(losses.smooth_labels(y, 0.0), y, rtol=0)
    compare(losses.smooth_labels(y, 1.0), 0.25, rtol=1e-6)
    where = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    compare(losses.smooth_labels(y, 0.2, where=where), [[0.9, 0.1, 0, 0], [0, 0, 0, 0]], rtol=1e-6)
    each = jnp.asarray([[0.0], [0.4]], jnp.float32)
    compare(losses.smooth_labels(y, each), [[1, 0, 0, 0], [0.1, 0.1, 0.7, 0.1]], rtol=1e-6)
    for alpha in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"smooth_labels: argument 'alpha' must lie in \[0.0, 1.0\]"):
            losses.smooth_labels(y, alpha)
    # The loss can be differentiated by the smoothing, from none on.
    x = jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32)
    slope = jax.grad(lambda a: losses.softmax_cross_entropy(x, losses.smooth_labels(y, a)).sum())(0.0)
    log_p = jax.nn.log_softmax(x)
    compare(slope, (y * log_p - log_p / 4).sum(), rtol=1e-5)


INFINITE = [
    (np.inf, 1.0, 0.0), (-np.inf, 0.0, 0.0), (np.inf, 0.0, np.inf), (-np.inf, 1.0, np.inf),
    (np.inf, 0.5, np.inf), (1e4, 1.0, 0.0), (-1e4, 0.0, 0.0), (1e4, 0.0, 1e4),
]  # fmt: skip


@pytest.mark.parametrize(("logit", "label", "expected"), INFINITE)
def test_infinite_logits_cost_nothing_where_they_are_right(
    logit: float, label: float, expected: float
) -> None:
    x, y = jnp.float32(logit), jnp.float32(label)
    for loss in (
        losses.sigmoid_binary_cross_entropy,
        losses.sigmoid_focal_loss,
        lambda x, y: losses.sigmoid_focal_loss(x, y, gamma=0.0),
    ):
        value, slope = jax.value_and_grad(loss)(x, y)
        np.testing.assert_allclose(value, expected if np.isinf(expected) or expected == 0 else value)
        assert np.isfinite(slope)
    np.testing.assert_allclose(jax.grad(losses.sigmoid_binary_cross_entropy)(x, y), (logit > 0) - label)
    value = losses.sigmoid_binary_cross_entropy(x, y)
    np.testing.assert_allclose(value, expected)


def test_the_derivative_by_a_label_is_minus_the_logit() -> None:
    for label in (0.0, 0.3, 1.0):
        x, y = jnp.float32(1.7), jnp.float32(label)
        np.testing.assert_allclose(jax.grad(losses.sigmoid_binary_cross_entropy, 1)(x, y), -1.7, rtol=1e-6)


SOFTMAX = [
    # logits, probabilities in the limit
    ([np.inf, 0.0, 1.0], [1.0, 0.0, 0.0]),
    ([np.inf, -np.inf, 1.0], [1.0, 0.0, 0.0]),
    ([np.inf, np.inf, 1.0], [0.5, 0.5, 0.0]),
    ([-np.inf, 0.0, 0.0], [0.0, 0.5, 0.5]),
]


@pytest.mark.parametrize(("logits", "p"), SOFTMAX)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_infinite_logits_of_a_softmax(logits: list[float], p: list[float], label: int) -> None:
    x, y = jnp.asarray(logits, jnp.float32), jnp.eye(3, dtype=jnp.float32)[label]
    with np.errstate(divide="ignore"):
        expected = abs(-np.log(p[label]))
    for loss in (
        lambda x: losses.softmax_cross_entropy(x, y),
        lambda x: losses.safe_softmax_cross_entropy(x, y),
        lambda x: INTEGER(x, jnp.asarray(label)),
        lambda x: losses.poly_loss_cross_entropy(x, y, epsilon=0.0),
        lambda x: losses.softmax_cross_entropy(x, y, where=jnp.asarray([True, True, True])),
        lambda x: losses.ranking_softmax_loss(x, y),
    ):
        value, slope = jax.value_and_grad(loss)(x)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, np.asarray(p) - np.asarray(y), atol=1e-6)
        assert not np.signbit(value), "-0 prints as a negative loss"
    assert jnp.isnan(INTEGER(x, jnp.asarray(label - 4)))


def test_no_loss_is_minus_zero_when_compiled() -> None:
    x, y = jnp.asarray([[1000.0, 0.0]]), jnp.asarray([[1.0, 0.0]])
    assert not np.signbit(jax.jit(losses.softmax_cross_entropy)(x, y)).any()


def test_the_softmax_of_a_segmentation_is_finite_at_infinite_logits() -> None:
    x = jnp.asarray([[np.inf, 0.0], [0.0, 1.0]], jnp.float32)
    y = jnp.asarray([[1.0, 0.0], [0.0, 1.0]], jnp.float32)
    value, slope = jax.value_and_grad(lambda x: losses.dice_loss(x, y).sum())(x)
    near = losses.dice_loss(x.at[0, 0].set(100.0), y).sum()
    np.testing.assert_allclose(value, near, rtol=1e-6)
    assert np.isfinite(slope).all()
