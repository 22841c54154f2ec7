"""Embeddings: without pairs, at zero, at one point, and far away."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare, nt_xent, triplet

RNG = np.random.default_rng(6)
ntxent = jax.jit(losses.ntxent)
margin = jax.jit(losses.triplet_margin_loss, static_argnames="axis")


def test_without_positives_or_without_negatives_there_is_nothing_to_learn() -> None:
    x = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    for labels in ([0, 1, 2, 3], [7, 7, 7, 7]):
        value, slope = jax.value_and_grad(ntxent)(x, jnp.asarray(labels))
        assert value == 0
        assert not np.any(slope)


def test_a_zero_embedding_is_like_nothing_else() -> None:
    x = RNG.normal(size=(4, 3))
    labels = np.array([0, 0, 1, 1])
    x[3] = 0
    value, slope = jax.value_and_grad(ntxent)(jnp.asarray(x, jnp.float32), jnp.asarray(labels))
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))
    assert ntxent(jnp.zeros((4, 3)), jnp.asarray(labels)) == pytest.approx(np.log(3), rel=1e-6)


def test_labels_may_be_any_integers() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.normal(size=(4, 3)))
        large = jnp.asarray([5, 5 + 2**40, 5, 5 + 2**40])
        compare(ntxent(x, large), ntxent(x, jnp.asarray([0, 1, 0, 1])), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.005, 0.5, 100.0])
def test_temperature(temperature: float) -> None:
    x, labels = RNG.normal(size=(5, 3)), np.array([3, 1, 3, 1, 3])
    expected = nt_xent(x, labels, temperature)
    compare(ntxent(jnp.asarray(x, jnp.float32), jnp.asarray(labels), temperature), expected, rtol=1e-3)
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"ntxent: argument 'temperature' must lie in \(0.0, inf\]"):
            losses.ntxent(jnp.ones((2, 2)), jnp.asarray([0, 0]), bad)
    with pytest.raises(
        ValueError, match=r"ntxent: argument 'embeddings' must have shape \(batch, features\); got \(2,\)"
    ):
        losses.ntxent(jnp.ones(2), jnp.asarray([0, 0]))


@pytest.mark.parametrize("degree", [0.5, 1, 1.5, 2, 3, 7])
def test_any_degree_of_the_norm(degree: float) -> None:
    a, p, n = RNG.normal(size=(3, 6, 5))
    floats = [jnp.asarray(v, jnp.float32) for v in (a, p, n)]
    compare(margin(*floats, norm_degree=degree), triplet(a, p, n, degree, 1.0, 1e-6), rtol=1e-4, atol=1e-5)
    compare(
        margin(*floats, axis=0, norm_degree=degree),
        triplet(a.T, p.T, n.T, degree, 1.0, 1e-6),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize("degree", [1.0, 1.5, 2.0, 3.0])
def test_gradients_at_one_point_and_far_away_are_finite(degree: float, eps: float) -> None:
    here = jnp.ones((4, 3), jnp.float32)
    far = here.at[0, 0].set(1e30).at[1].set(-1e20).at[2].set(1.0 + 1e-6).at[3, 1].set(1e36)

    @jax.jit
    def f(*args: Any) -> Any:
        return jax.value_and_grad(
            lambda *args: margin(*args, norm_degree=degree, eps=eps, margin=3e36).sum(), (0, 1, 2)
        )(*args)

    for args in ((here, here, here), (here, far, here), (here, here, far)):
        value, gradients = f(*args)
        compare(value, triplet(*map(np.float64, args), degree, 3e36, eps).sum(), rtol=1e-5)
        assert all(np.all(np.isfinite(g)) for g in gradients)
    np.testing.assert_allclose(f(here, far, here)[1][1][0], [1, 0, 0], atol=1e-6)


def test_two_distances_beyond_the_largest_number_have_a_difference() -> None:
    a, p, n = np.array([[3e38, 3e38, 1.0], [-3e38, -1e38, 0.0], [-3e38, 0.0, 0.0]])
    value, gradients = jax.value_and_grad(margin, (0, 1, 2))(
        *(jnp.asarray(v, jnp.float32) for v in (a, p, n))
    )
    compare(value, triplet(a, p, n, 2, 1.0, 1e-6), rtol=1e-5)
    near, far = (a - v for v in (p, n))
    by_p, by_n = -near / np.linalg.norm(near), far / np.linalg.norm(far)
    compare(gradients, [-by_p - by_n, by_p, by_n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degree", [0.3, 0.5, 0.8, 1.0, 3.0])
def test_gradients_of_small_parts_of_long_vectors(degree: float) -> None:
    a, zero = np.array([[1e30, 2.0, 0.0], [-1e36, 1e30, 1e-3], [1e-30, 1.0, 2.0]]), np.zeros((3, 3))
    gradient = jax.jit(jax.grad(lambda p, a: margin(a, p, a, norm_degree=degree, margin=0.0, eps=0.0).sum()))
    length = (np.abs(a) ** degree).sum(-1, keepdims=True) ** (1 / degree)
    part = np.where(a != 0, np.abs(a), 1) / length
    expected = np.where(a != 0, -np.sign(a) * part ** (degree - 1), 0)
    compare(
        gradient(jnp.asarray(zero, jnp.float32), jnp.asarray(a, jnp.float32)), expected, rtol=1e-4, atol=1e-30
    )


@pytest.mark.parametrize("degree", [0.5, 1, 2, 3])
def test_a_triplet_with_nan_shows(degree: float) -> None:
    """A maximum of many rows is not NaN on every CPU."""
    x = jnp.zeros((4000, 4), jnp.float32)
    loss = losses.triplet_margin_loss(x.at[:, 3].set(jnp.nan), x, x + 1, norm_degree=degree)
    assert np.isnan(loss).all()


def test_triplet_mistakes() -> None:
    x = jnp.ones((3, 2), jnp.float32)
    with pytest.raises(
        ValueError, match=r"triplet_margin_loss: argument 'negatives' must .* anchors, \(3, 2\); got \(3, 1\)"
    ):
        losses.triplet_margin_loss(x, x, x[:, :1])
    for degree in (0, -2, float("inf")):
        with pytest.raises(ValueError, match="triplet_margin_loss: argument 'norm_degree' must lie in"):
            losses.triplet_margin_loss(x, x, x, norm_degree=degree)
    with pytest.raises(ValueError, match="triplet_margin_loss: argument 'eps' must lie in"):
        losses.triplet_margin_loss(x, x, x, eps=-1e-6)
    assert losses.triplet_margin_loss(x.astype(jnp.float16), x, x).dtype == jnp.float32
