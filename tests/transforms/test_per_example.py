"""Per-example clipping against a loop over the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

RNG = np.random.default_rng(0)
GRADS = {"a": RNG.normal(size=(5, 3, 2)), "b": RNG.normal(size=(5, 4)), "c": 3 * RNG.normal(size=(5,))}


@pytest.mark.parametrize("limit", [0.5, 3.0, np.inf])
def test_global(limit: float) -> None:
    expected = {name: np.zeros(g.shape[1:]) for name, g in GRADS.items()}
    clipped = 0
    for i in range(5):
        size = np.sqrt(sum(np.sum(g[i] ** 2) for g in GRADS.values()))
        clipped += size > limit
        for name, g in GRADS.items():
            expected[name] += g[i] * min(1.0, limit / size)
    total, count = gf.per_example_global_norm_clip(jax.tree.map(jnp.asarray, GRADS), limit)
    assert count.dtype == np.int32
    assert count == clipped
    for name in GRADS:
        np.testing.assert_allclose(total[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("uniform", [True, False])
def test_by_layer(uniform: bool) -> None:
    sizes = {name: g[0].size for name, g in GRADS.items()}
    total, counts = gf.per_example_layer_norm_clip(jax.tree.map(jnp.asarray, GRADS), 2.0, uniform)
    for name, g in GRADS.items():
        limit = 2.0 * np.sqrt(1 / 3 if uniform else sizes[name] / sum(sizes.values()))
        norms = np.sqrt(np.sum(g.reshape(5, -1) ** 2, axis=1))
        factors = np.minimum(1.0, limit / norms)
        np.testing.assert_allclose(
            total[name], np.sum(g * factors.reshape(5, *[1] * (g.ndim - 1)), axis=0), rtol=1e-5, atol=1e-6
        )
        assert counts[name] == np.sum(norms > limit)


def test_integers_narrow_leaves_and_extremes() -> None:
    (total,), count = gf.per_example_global_norm_clip([jnp.asarray([[3, 4], [0, 0], [6, 8]])], 5.0)
    np.testing.assert_allclose(total, [6.0, 8.0], rtol=1e-6)
    assert count == 1
    total, _ = gf.per_example_global_norm_clip(jnp.full((4, 2), 300.0, jnp.float16), 1.0)
    np.testing.assert_allclose(total, 4 / np.sqrt(2), rtol=1e-6)
    total, _ = gf.per_example_global_norm_clip(jnp.full((4, 100), 1e38, jnp.float32), 1.0)
    np.testing.assert_allclose(total, 0.4, rtol=1e-5)
    assert gf.per_example_global_norm_clip({}, 1.0)[0] == {}
    assert gf.per_example_layer_norm_clip([], 1.0) == ([], [])
