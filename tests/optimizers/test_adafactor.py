"""Adafactor against the paper's Algorithm 4 in NumPy, and where squares are at the ends of their range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def paper(grads: list[Any], offset: int, long: int, short: int) -> Any:
    """The last update of Algorithm 4 for a leaf whose axes `long` and `short` are factored."""
    r: Any = 0
    c: Any = 0
    for count, g in enumerate(grads):
        b = 1 - max(count - offset + 1, 1) ** -0.8
        square = g**2 + 1e-30
        r = b * r + (1 - b) * square.mean(axis=long, keepdims=True)
        c = b * c + (1 - b) * square.mean(axis=short, keepdims=True)
    return grads[-1] / np.sqrt(r * c / r.mean(axis=short, keepdims=True))


@pytest.mark.parametrize(
    ("shape", "long", "short"), [((4, 3), 0, 1), ((3, 4), 1, 0), ((5, 2, 4), 0, 2), ((3, 3), 1, 0)]
)
@pytest.mark.parametrize("offset", [0, 3, -7])
def test_matrices_and_tensors_follow_the_paper(
    shape: tuple[int, ...], long: int, short: int, offset: int
) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=shape) for _ in range(8)]
    with jax.enable_x64(True):
        tx = gf.scale_by_factored_rms(min_dim_size_to_factor=2, step_offset=offset)
        state = tx.init(jnp.zeros(shape))
        for g in grads:
            u, state = tx.update(jnp.asarray(g), state)
        assert state.v_row.size + state.v_col.size < 2 * np.prod(shape)
        assert state.v.shape == (1,)
    np.testing.assert_allclose(u, paper(grads, offset, long, short), rtol=1e-12)


@pytest.mark.parametrize("count", [0, 2**31 - 2, 2**31 - 1])
@pytest.mark.parametrize("offset", [-(2**31), -1, 0, 10**9, 2**31 - 1])
def test_any_count_and_any_offset_are_finite(count: int, offset: int) -> None:
    tx = gf.scale_by_factored_rms(min_dim_size_to_factor=2, step_offset=offset)
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones((3,))}
    state = tx.init(params)._replace(count=jnp.int32(count))
    updates, state = tx.update(params, state)
    assert state.count == min(count + 1, 2**31 - 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


def test_a_row_without_gradients_beside_a_large_one_is_finite() -> None:
    """The quotient of its mean square and the others' is below every float32."""
    g = jnp.asarray([[0.0, 0.0, 0.0], [1e9, -1e9, 2e9]], jnp.float32)
    tx = gf.scale_by_factored_rms(min_dim_size_to_factor=2)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates[0], 0)
    np.testing.assert_allclose(updates[1], jnp.sign(g[1]) * jnp.asarray([1, 1, 1.0]), rtol=1e-6)


def test_a_given_decay_replaces_the_power() -> None:
    seen = []

    def capped(step: Any, rate: Any) -> Any:
        seen.append((float(step), float(rate)))
        return jnp.minimum(0.5, 1 - (step + 1) ** -rate)

    tx = gf.scale_by_factored_rms(step_offset=-1, decay_rate=0.7, decay_rate_fn=capped)
    g = jnp.ones((2,))
    state = tx.init(g)
    _, state = tx.update(g, state)
    _, state = tx.update(3 * g, state)
    np.testing.assert_allclose(seen, [(1, 0.7), (2, 0.7)], rtol=1e-6)
    b = 1 - 2**-0.7
    np.testing.assert_allclose(state.v, 0.5 * (1 - b) + 0.5 * 9, rtol=1e-6)


def test_a_state_of_other_shapes_is_named() -> None:
    tx = gf.scale_by_factored_rms(min_dim_size_to_factor=2)
    state = tx.init({"kernel": jnp.ones((3, 4))})
    with pytest.raises(ValueError, match="kernel"):
        tx.update({"kernel": jnp.ones((3, 5))}, state)
