"""Cosines: of zero, tiny and huge vectors, and of all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare

A = jnp.asarray([[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]], jnp.float32)
B = jnp.asarray([[4.0, 3.0], [0.0, 5.0], [0.0, 2.0]], jnp.float32)


SIMILARITY = jax.jit(losses.cosine_similarity)
TOTAL = jax.jit(jax.value_and_grad(lambda a: losses.cosine_similarity(a, B).sum()))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_zero_vectors_have_similarity_zero_and_finite_gradients(dtype: jnp.dtype, epsilon: float) -> None:
    zero, other = jnp.zeros((2, 3), dtype), jnp.asarray([[1, 2, 2], [0, 0, 0]], dtype)
    f = jax.jit(
        jax.value_and_grad(lambda a, b: losses.cosine_similarity(a, b, epsilon=epsilon).sum(), (0, 1))
    )
    value, (left, right) = f(zero, other)
    assert value == 0
    # Below epsilon the vector is divided by epsilon, so that it can leave zero.
    slope = np.array([[1, 2, 2], [0, 0, 0]]) / 3 / epsilon if epsilon else np.zeros((2, 3))
    compare(left, slope, rtol=1e-2)
    assert not np.any(right)


def test_epsilon_bounds_the_length() -> None:
    short = jnp.asarray([[0.003, 0.004]], jnp.float32)
    compare(losses.cosine_similarity(short, short), 1.0, rtol=1e-6)
    compare(losses.cosine_similarity(short, short, epsilon=0.01), 0.25, rtol=1e-5)
    compare(losses.cosine_similarity(short, B[:1], epsilon=0.01), 0.5 * 24 / 25, rtol=1e-5)
    with pytest.raises(ValueError, match="cosine_similarity: argument 'epsilon' must lie in"):
        losses.cosine_similarity(A, B, epsilon=-1.0)


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-19, 1e19, 1e37, 6e37])
def test_length_does_not_matter(scale: float) -> None:
    s = np.float32(scale)
    value, gradient = TOTAL(A * s)
    compare(SIMILARITY(A * s, B), [24 / 25, 0, -1], rtol=1e-6, atol=1e-6)
    _, exact = TOTAL(A)
    if scale < 1e36:  # beyond, the gradient is below the smallest normal number
        compare(np.asarray(gradient, np.float64) * scale, exact, rtol=1e-5, atol=1e-6)
    assert np.isfinite(value)


def test_cosines_stay_in_their_range() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2000, 7)), jnp.float32)
    assert losses.cosine_similarity(x, x).max() <= 1
    assert losses.cosine_similarity(x, -x).min() >= -1
    assert losses.cosine_distance(x, x).min() >= 0


def test_all_pairs_by_explicit_broadcasting() -> None:
    a, b = np.asarray(A), np.asarray(B)
    table = SIMILARITY(a[:, None], b[None])
    assert table.shape == (3, 3)
    compare(table, [[SIMILARITY(u, v) for v in b] for u in a], rtol=1e-6)
    where = np.array([True, False])[None, None]
    compare(SIMILARITY(a[:, None], b[None], where=where), np.sign(a[:, :1] * b[:, 0][None]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"cosine_distance: argument 'targets' .*\(3, 2\).*got \(2,\)"):
        losses.cosine_distance(A, B[0])
    with pytest.raises(ValueError, match=r"cosine_similarity: argument 'targets' .*\(3, 2\).*got \(3, 1\)"):
        losses.cosine_similarity(A, B[:, :1])
