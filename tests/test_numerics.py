"""Functions that stay finite: values against NumPy, derivatives at zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import numerics

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, jnp.float16, jnp.bfloat16, np.float32])
def test_a_counter_stays_at_its_last_number(dtype: Any) -> None:
    info = jnp.iinfo(dtype) if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype)
    last = jnp.asarray(info.max, dtype)
    assert numerics.safe_increment(last) == last
    if not jnp.issubdtype(dtype, jnp.integer):
        assert jnp.isnan(numerics.safe_increment(jnp.asarray(jnp.nan, dtype)))
    three = numerics.safe_increment(jnp.asarray(2, dtype))
    assert (float(three), three.dtype) == (3.0, jnp.dtype(dtype))
    for wrong in (True, 1j):
        with pytest.raises(ValueError, match="safe_increment: argument 'count' must be a real number"):
            numerics.safe_increment(jnp.asarray(wrong))


@pytest.mark.parametrize("ord", [None, 1, 2, 3, np.inf, "fro", "nuc"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_norms_are_those_of_numpy_and_flat_below_the_least(ord: Any, axis: Any, keepdims: bool) -> None:
    matrix = axis is None or isinstance(axis, tuple)
    if (isinstance(ord, str) and not matrix) or (ord == 3 and matrix):
        pytest.skip("NumPy has no such norm")
    x = RNG.normal(size=(3, 4))
    expected = np.linalg.norm(x, ord=ord, axis=axis, keepdims=keepdims)

    def total(x: jax.Array, least: float) -> jax.Array:
        return jnp.sum(numerics.safe_norm(x, least, ord, axis, keepdims))

    actual = numerics.safe_norm(jnp.float32(x), 0.5, ord, axis, keepdims)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, np.maximum(expected, 0.5), rtol=1e-5)
    for least in (0.0, 0.5):
        slope = jax.grad(total)(jnp.zeros((3, 4)), least)
        np.testing.assert_array_equal(slope, 0.0)
    assert np.all(np.isfinite(jax.grad(total)(jnp.float32(x), 0.0)))
    np.testing.assert_array_equal(jax.grad(total)(jnp.float32(x), 1e3), 0.0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize(("ord", "axis"), [(None, None), (None, 1), (2, None), (3, 0), ("nuc", (0, 1))])
def test_norms_of_tiny_and_huge_numbers(size: float, ord: Any, axis: Any) -> None:
    x = RNG.normal(size=(3, 4))
    expected = size * np.linalg.norm(x, ord=ord, axis=axis)
    np.testing.assert_allclose(numerics.safe_norm(jnp.float32(size * x), 0.0, ord, axis), expected, rtol=1e-5)
    slope, wanted = (
        jax.grad(lambda x: numerics.safe_norm(x, 0.0, ord, axis).sum())(jnp.float32(factor * x))
        for factor in (size, 1.0)
    )
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-6)
    root = numerics.safe_root_mean_squares(jnp.float32(size * x), 0.0)
    assert float(root) == pytest.approx(size * np.sqrt(np.mean(x**2)), rel=1e-6)


def test_norms_of_order_zero_or_below_are_those_of_small_numbers() -> None:
    x = jnp.asarray([[0.0, 1e30, 1e-15], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(numerics.safe_norm(x, 0.0, np.int64(0), axis=1), [2, 1])
    for order in (-1, -np.inf):
        norm, slope = jax.value_and_grad(lambda x, order=order: numerics.safe_norm(x, 0.0, order))(x[0, 1:])
        np.testing.assert_allclose(norm, 1e-15, rtol=1e-6)
        np.testing.assert_allclose(slope, [0, 1], atol=1e-6)


def test_norms_of_half_precision_and_complex_numbers() -> None:
    large = jnp.full(100, 300.0, jnp.float16)
    assert float(numerics.safe_norm(large, 0.0)) == pytest.approx(3000.0, rel=1e-3)
    assert numerics.safe_norm(large, 0.0).dtype == jnp.float16
    z = jnp.asarray([3 + 4j, 0j], jnp.complex64)
    assert float(numerics.safe_norm(z, 0.0)) == pytest.approx(5.0)
    assert float(numerics.safe_root_mean_squares(z, 0.0)) == pytest.approx(np.sqrt(12.5))


def test_root_mean_squares() -> None:
    x = RNG.normal(size=(3, 4))
    root = numerics.safe_root_mean_squares(jnp.float32(x), 0.1)
    assert float(root) == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-6)
    assert float(numerics.safe_root_mean_squares(jnp.zeros(3), 0.1)) == pytest.approx(0.1)
    assert float(numerics.safe_root_mean_squares(jnp.zeros((0, 2)), 0.0)) == 0.0
    for least in (0.0, 0.1):
        slope = jax.grad(numerics.safe_root_mean_squares)(jnp.zeros(3), least)
        np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_gradients_are_scaled_and_values_are_not(scale: float) -> None:
    inputs = {"a": jnp.arange(3.0), "ids": jnp.arange(2), "b": jnp.ones((), jnp.bfloat16)}

    def loss(a: jax.Array, scale: Any) -> jax.Array:
        return jnp.sum(numerics.scale_gradient({**inputs, "a": a}, scale)["a"] ** 2)

    same = numerics.scale_gradient(inputs, scale)
    assert all(np.array_equal(same[k], inputs[k]) and same[k].dtype == inputs[k].dtype for k in inputs)
    for derivative in (jax.grad(loss), jax.jacfwd(loss), jax.jit(jax.grad(loss))):
        np.testing.assert_allclose(derivative(inputs["a"], scale), scale * 2 * inputs["a"])


def test_normal_numbers() -> None:
    loc, log_scale = jnp.asarray([1.0, -2.0]), jnp.asarray([0.0, -1.0])
    normal = numerics.multi_normal(loc, log_scale)
    assert normal.params[0] is loc
    assert normal.log_scale is log_scale
    samples = normal.sample((20000,), jax.random.key(0))
    assert samples.shape == (20000, 2)
    np.testing.assert_allclose(np.mean(samples, 0), loc, atol=0.03)
    np.testing.assert_allclose(np.std(samples, 0), np.exp(log_scale), rtol=0.03)
    points = np.asarray(samples[:3], np.float64)
    deviation = np.exp(np.asarray(log_scale, np.float64))
    terms = -0.5 * ((points - np.asarray(loc)) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(normal.log_prob(samples[:3]), terms.sum(-1), rtol=1e-5)
    slope = jax.grad(lambda d: jnp.sum(d.sample((5,), jax.random.key(1))))(normal)
    np.testing.assert_allclose(slope.params[0], [5.0, 5.0])
    assert jnp.shape(numerics.multi_normal(0.0, 0.0).log_prob(jnp.zeros(4))) == (4,)
    with pytest.raises(ValueError, match=r"must have shapes that broadcast; got \(2,\) and \(3,\)"):
        numerics.multi_normal(loc, jnp.zeros(3))


@pytest.mark.parametrize("order", [np.inf, -np.inf])
def test_a_nan_among_thousands_of_numbers_shows_in_a_norm(order: float) -> None:
    """XLA's maximum on a CPU leaves it out."""
    assert np.isnan(numerics.safe_norm(jnp.ones(4096).at[7].set(jnp.nan), 1e-6, ord=order))
