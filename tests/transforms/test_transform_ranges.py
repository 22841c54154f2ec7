"""Divisions by norms, from the smallest gradient to the largest, and what they cost."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._rules._scaled_norm import scaled_norm

SIZES = [1e-37, 1e-30, 1e-15, 1e-9, 1.0, 1e9, 1e15, 1e19, 1e30, 1e38, 3e38]


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_the_norm_in_two_parts(count: int) -> None:
    slope_of = jax.jit(jax.grad(lambda g: scaled_norm(g)[0] / scaled_norm(g)[1]))
    for value in SIZES:
        g = {"a": jnp.full(count, value, jnp.float32), "b": jnp.zeros(2, jnp.float32)}
        size, power = scaled_norm(g)
        expected = np.float64(np.float32(value)) * np.sqrt(count)
        np.testing.assert_allclose(np.float64(size) / np.float64(power), expected, rtol=1e-6)
        assert np.log2(power) == np.round(np.log2(power))
        slope = slope_of(g)
        if expected < 3e38:
            np.testing.assert_allclose(slope["a"], 1 / np.sqrt(count), rtol=1e-5)
        np.testing.assert_array_equal(slope["b"], np.zeros(2))


def test_numbers_of_all_sizes_at_once() -> None:
    g = jnp.asarray([1e-38, 3e-15, 1.0, 4e-10, 3e38], jnp.float32)
    for chosen in (g[:2], g[:3], g[1:2], g):
        size, power = scaled_norm(chosen)
        expected = np.linalg.norm(np.asarray(chosen, np.float64))
        np.testing.assert_allclose(np.float64(size) / np.float64(power), expected, rtol=1e-6)
    # Many squares that vanish beside one that does not.
    many = jnp.full(2**20, 1e-19, jnp.float32).at[0].set(3e-15)
    size, power = scaled_norm(many)
    expected = np.linalg.norm(np.asarray(many, np.float64))
    np.testing.assert_allclose(np.float64(size) / np.float64(power), expected, rtol=1e-6)


def test_norms_of_nothing_and_of_what_is_no_number() -> None:
    assert float(scaled_norm({})[0]) == 0
    assert float(scaled_norm({"a": jnp.zeros((0, 3)), "b": None})[0]) == 0
    assert np.isnan(scaled_norm(jnp.asarray([1.0, jnp.nan]))[0])
    assert np.isinf(scaled_norm(jnp.asarray([1.0, -jnp.inf]))[0])
    assert np.isnan(scaled_norm(jnp.asarray([jnp.nan, -jnp.inf]))[0])


@pytest.mark.parametrize("count", [1, 4, 1000])
def test_what_has_norm_one_afterwards(count: int) -> None:
    each = 1 / np.sqrt(count)
    p = jnp.full(count, each, jnp.float32)
    always = [gf.normalize_by_update_norm(eps=0.0), gf.scale_by_trust_ratio()]
    clips = [gf.clip_by_global_norm(1.0), gf.clip_by_block_rms(each), gf.adaptive_grad_clip(1.0)]
    for tx in (*always, *clips):
        update = jax.jit(tx.update)
        for value in SIZES:
            if tx in always or value >= 2:
                u, _ = update(jnp.full(count, value, jnp.float32), tx.init(p), p)
                np.testing.assert_allclose(u, each, rtol=1e-5, err_msg=f"{tx} {value}")


def test_what_is_not_clipped_is_untouched() -> None:
    p = jnp.ones(3, jnp.float32)
    for tx in (gf.clip_by_global_norm(3e38), gf.clip_by_block_rms(3e38), gf.adaptive_grad_clip(1e38)):
        update = jax.jit(tx.update)
        for value in SIZES[:-2]:
            g = jnp.full(3, value, jnp.float32)
            u, _ = update(g, tx.init(p), p)
            np.testing.assert_array_equal(u, g, err_msg=f"{tx} {value}")


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    g = {"a": jnp.full((2, 2), 300.0, dtype), "b": jnp.full((2, 2), 60000.0, dtype)}
    p = jax.tree.map(lambda x: jnp.ones(x.shape, dtype), g)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (g, p))
    for tx in (
        gf.clip_by_global_norm(1.0), gf.clip_by_block_rms(1.0), gf.adaptive_grad_clip(0.01), gf.clip(1.0),
        gf.normalize_by_update_norm(), gf.scale_by_trust_ratio(), gf.centralize(),
        gf.scale_by_param_block_rms(), gf.ema(0.999), gf.trace(0.0),
    ):  # fmt: skip
        u, _ = jax.jit(tx.update)(g, tx.init(p), p)
        exact, _ = jax.jit(tx.update)(wide[0], tx.init(wide[1]), wide[1])
        for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(exact), strict=True):
            assert a.dtype == dtype
            np.testing.assert_array_equal(a, b.astype(dtype), err_msg=repr(tx))


HYPER = {
    "max_norm": lambda x: gf.clip_by_global_norm(x),
    "threshold": lambda x: gf.clip_by_block_rms(x),
    "clipping": lambda x: gf.adaptive_grad_clip(x),
    "agc eps": lambda x: gf.adaptive_grad_clip(1.0, x),
    "max_delta": lambda x: gf.clip(x),
    "scale_factor": lambda x: gf.normalize_by_update_norm(x),
    "eps": lambda x: gf.normalize_by_update_norm(eps=x),
    "min_norm": lambda x: gf.scale_by_trust_ratio(x),
    "trust_coefficient": lambda x: gf.scale_by_trust_ratio(0.0, x),
    "trust eps": lambda x: gf.scale_by_trust_ratio(0.0, 1.0, x),
    "min_scale": lambda x: gf.scale_by_param_block_norm(x),
    "min_scale of rms": lambda x: gf.scale_by_param_block_rms(x),
    "eta": lambda x: gf.add_noise(x, 0.5, 0),
    "gamma": lambda x: gf.add_noise(0.5, x, 0),
}


@pytest.mark.parametrize("name", HYPER)
def test_hypergradients_are_finite(name: str) -> None:
    def loss(x: jax.Array, g: Any, p: Any) -> jax.Array:
        tx = HYPER[name](x)
        u, _ = tx.update(g, tx.init(p), p)
        return jnp.sum(jnp.tanh(u["a"])) + jnp.sum(u["b"])

    slopes_of = jax.jit(jax.grad(loss, argnums=(0, 2)))
    for value, size, parameter in itertools.product([0.0, 1e-30, 1.0], [0.0, 1e-30, 1.0, 1e30], [0.0, 1.0]):
        g = {"a": jnp.full((2, 2), size, jnp.float32), "b": jnp.full((0,), size, jnp.float32)}
        slopes = slopes_of(jnp.float32(value), g, jax.tree.map(lambda x, p=parameter: jnp.full_like(x, p), g))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slopes)), (value, size, parameter)


def test_a_limit_of_zero_gives_zeros() -> None:
    for g in (jnp.zeros(3), jnp.ones(3), jnp.full(3, 1e30)):
        for tx in (
            gf.clip_by_global_norm(0.0),
            gf.clip_by_block_rms(0.0),
            gf.clip(0.0),
            gf.adaptive_grad_clip(0.0),
        ):
            u, _ = tx.update(g, tx.init(g), jnp.ones(3))
            np.testing.assert_array_equal(u, np.zeros(3))


def test_one_bad_number_stays_one() -> None:
    """An infinite norm makes the factor zero, and only what is infinite itself a NaN, as a guard expects."""
    tx = gf.clip_by_global_norm(1.0)
    u, _ = tx.update(jnp.asarray([1.0, jnp.inf]), tx.init(jnp.ones(2)))
    assert u[0] == 0
    assert np.isnan(u[1])
    u, _ = tx.update(jnp.asarray([1.0, jnp.nan]), tx.init(jnp.ones(2)))
    assert np.isnan(u[1])


def test_a_number_of_a_leaf_costs_a_multiplication_not_a_select() -> None:
    g = {"a": jnp.ones(7), "b": jnp.ones((3, 5))}
    tx = gf.clip_by_global_norm(1.0)
    lowered = jax.jit(lambda g: tx.update(g, tx.init(g))[0]).lower(g).as_text()
    assert "tensor<7xf32>" in lowered
    assert not [line for line in lowered.splitlines() if "stablehlo.select" in line and "7xf32" in line]


@pytest.mark.parametrize("value", [1e-150, 1.0, 1e200, 1e307])
def test_mars_limits_the_norm_of_every_float64(value: float) -> None:
    with jax.enable_x64(True):
        tx = gf.mars_correction(max_norm=value)
        g = jnp.full(4, 2 * value)
        u, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, value / 2, rtol=1e-12)


def test_an_update_beyond_float16_is_its_largest_number() -> None:
    largest = np.finfo(np.float16).max
    p = jnp.full(3, -6e4, jnp.float16)

    def value_fn(p: jax.Array) -> jax.Array:
        return jnp.mean((p.astype(jnp.float32) - 6e4) ** 2) * 1e-6

    value, grad = jax.value_and_grad(value_fn)(p)
    found = {"value": value, "grad": grad, "value_fn": value_fn}
    for tx, g, extra in (
        (gf.fista(1e8), grad, {}),
        (gf.lbfgsb(), grad, found),
        (gf.flatten(gf.scale(1e8)), grad, {}),
        (gf.differentially_private_aggregate(1e3, 1e4, key=0), jnp.stack([grad, grad]), {}),
    ):
        u, _ = tx.update(g, tx.init(p), p, **extra)
        np.testing.assert_array_equal(np.abs(u), np.full(3, largest))
