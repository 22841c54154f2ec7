"""GaLore against the paper's Algorithm 2 in NumPy, and the leaves that it leaves as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf


def paper(grads: list[Any], rank: int, gap: int, scale: float) -> list[Any]:
    """Updates of Algorithm 2 with Adam, on the shorter side."""
    if grads[0].shape[0] > grads[0].shape[1]:
        return [u.T for u in paper([g.T for g in grads], rank, gap, scale)]
    m: Any = 0
    v: Any = 0
    basis, updates = None, []
    for t, g in enumerate(grads):
        if t % gap == 0:
            basis = np.linalg.svd(g)[0][:, :rank]
            basis = basis * np.sign(basis[np.abs(basis).argmax(0), range(rank)])
        r = basis.T @ g
        m, v = 0.9 * m + 0.1 * r, 0.999 * v + 0.001 * r**2
        step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        updates.append(scale * basis @ step)
    return updates


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_updates_follow_the_paper(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=shape) for _ in range(7)]
    with jax.enable_x64(True):
        tx = gf.scale_by_galore(2, 3, 0.25)
        state = tx.init(jnp.zeros(shape))
        step = jax.jit(tx.update)
        for g, e in zip(grads, paper(grads, 2, 3, 0.25), strict=True):
            u, state = step(jnp.asarray(g), state)
            np.testing.assert_allclose(u, e, rtol=1e-7, atol=1e-9)
    assert state.projector.shape == (min(shape), 2)
    assert state.base_optimizer_state.nu.size == 2 * max(shape)


def test_tensors_are_batches_of_the_matrices_that_their_axes_say() -> None:
    rng = np.random.default_rng(1)
    grads = [rng.normal(size=(3, 2, 4, 2)) for _ in range(4)]
    spec = gf.GaLoreDimensionNumbers((0, 3), 2)
    with jax.enable_x64(True):
        tx = gf.scale_by_galore(2, 3, weight_dimension_numbers=spec)
        state = tx.init(jnp.zeros((3, 2, 4, 2)))
        assert state.projector.shape == (2, 4, 2)
        for g in grads:
            u, state = tx.update(jnp.asarray(g), state)
    for i in range(2):
        each = paper([g[:, i].transpose(0, 2, 1).reshape(6, 4) for g in grads], 2, 3, 1.0)[-1]
        np.testing.assert_allclose(u[:, i].transpose(0, 2, 1).reshape(6, 4), each, rtol=1e-7, atol=1e-9)


def test_small_leaves_and_vectors_go_to_the_base_optimizer_as_they_are() -> None:
    params = {"small": jnp.ones((3, 9)), "bias": jnp.ones((9,)), "none": None, "deep": jnp.ones((5, 5, 5))}
    tx, base = gf.galore(1.0, rank=3), gf.adam(1.0)
    state = tx.init(params)
    assert jax.tree.leaves(state[0].projector) == []
    updates, _ = tx.update(params, state, params)
    expected, _ = base.update(params, base.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_types_of_the_state_never_change() -> None:
    params = {"kernel": jnp.ones((8, 6), jnp.bfloat16), "bias": jnp.ones((8,), jnp.float16)}
    tx = gf.galore(0.1, 2)
    state = tx.init(params)
    _, after = jax.lax.scan(lambda s, _: (tx.update(params, s, params)[1], None), state, None, length=3)[::-1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


def test_a_zero_gradient_chooses_no_subspace() -> None:
    """After a layer that begins at zero the first gradient is zero; the subspace must not be any."""
    g = jnp.asarray(np.random.default_rng(2).normal(size=(4, 6)), jnp.float32)
    tx = gf.scale_by_galore(2, 100, base_optimizer=gf.identity())
    state = tx.init(g)
    for _ in range(2):
        u, state = tx.update(jnp.zeros_like(g), state)
        np.testing.assert_array_equal(u, 0)
    u, state = tx.update(g, state)
    left, s, right = np.linalg.svd(g)
    np.testing.assert_allclose(u, (left[:, :2] * s[:2]) @ right[:2], rtol=1e-4, atol=1e-5)
    _, later = tx.update(jnp.flip(g), state)
    np.testing.assert_array_equal(later.projector, state.projector)


def test_the_projected_step_is_the_field_s_where_the_first_singular_vectors_say_all() -> None:
    """With a base that is linear both sides' projections of one gradient agree."""
    g = jnp.asarray(np.random.default_rng(3).normal(size=(6, 4)), jnp.float32)
    tx, peer = (
        f.scale_by_galore(2, base_optimizer=f_.identity()) for f, f_ in ((gf, gf), (optax.contrib, optax))
    )
    ours, _ = tx.update(g, tx.init(g))
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = peer.update(g, peer.init(g))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"add_decayed_weights.*weight_decay="):
        gf.galore(0.1, base_optimizer=gf.adamw(0.1))
    tx = gf.scale_by_galore(2)
    state = tx.init({"kernel": jnp.ones((4, 6))})
    with pytest.raises(ValueError, match=r"projector.*'kernel'"):
        tx.update({"kernel": jnp.ones((5, 6))}, state)
    numbers = {"kernel": gf.GaLoreDimensionNumbers(0, 3)}
    with pytest.raises(ValueError, match=r"'kernel'.*\(4, 6\)"):
        gf.scale_by_galore(2, weight_dimension_numbers=numbers).init({"kernel": jnp.ones((4, 6))})


@pytest.mark.parametrize("base", [gf.scale_by_adam, gf.scale_by_lion])
def test_projections_of_the_largest_gradient_are_finite(base: Any) -> None:
    """A product with the basis would overflow, and the base optimizer's average stay infinite."""
    tx = gf.scale_by_galore(1, 2, base_optimizer=base())
    params = jnp.ones((2, 3))
    largest = jnp.finfo(jnp.float32).max * jnp.asarray([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    step = jax.jit(tx.update)
    for outlier in (largest, jnp.full((2, 3), jnp.inf)):
        state = tx.init(params)
        for g in (params, outlier, params):
            updates, state = step(g, state, params)
        leaves = jax.tree.leaves((updates, state.base_optimizer_state))
        assert all(np.isfinite(leaf).all() for leaf in leaves) is (outlier is largest)
