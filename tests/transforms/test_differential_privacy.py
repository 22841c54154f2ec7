"""differentially_private_aggregate and dpsgd: clipping, noise, and the axis of examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3), "none": None}
RNG = np.random.default_rng(0)


def examples(count: int, size: float = 1.0) -> Any:
    shapes = {"w": (count, 2, 3), "b": (count, 3)}
    drawn = {k: jnp.asarray(size * RNG.normal(size=s), jnp.float32) for k, s in shapes.items()}
    return {**drawn, "none": None}


@pytest.mark.parametrize("limit", [0.5, 3.0, 100.0])
def test_without_noise_the_mean_of_clipped_gradients(limit: float) -> None:
    grads = examples(8)
    tx = gf.differentially_private_aggregate(limit, 0.0, key=0)
    with gf.collecting() as heard:
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    w, b = (np.asarray(grads[k], np.float64) for k in ("w", "b"))
    norms = np.sqrt((w**2).sum((1, 2)) + (b**2).sum(1))
    factor = np.minimum(1, limit / norms)
    np.testing.assert_allclose(updates["w"], (factor[:, None, None] * w).mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(updates["b"], (factor[:, None] * b).mean(0), rtol=1e-5, atol=1e-7)
    assert updates["none"] is None
    assert float(heard.values["clipped"]) == np.mean(norms > limit)


def test_the_noise_has_its_deviation_and_changes_from_step_to_step() -> None:
    params = {"w": jnp.zeros(20_000), "b": jnp.zeros(20_000)}
    grads = jax.tree.map(lambda p: jnp.zeros((4, *p.shape)), params)
    tx = gf.differentially_private_aggregate(2.0, 3.0, key=jax.random.key(1))
    state = tx.init(params)
    first, state = tx.update(grads, state, params)
    second, _ = tx.update(grads, state, params)
    for u in (first["w"], first["b"], second["w"]):
        np.testing.assert_allclose(np.std(u), 2.0 * 3.0 / 4, rtol=0.03)
        assert abs(float(np.mean(u))) < 0.05
    for a, b in ((first["w"], first["b"]), (first["w"], second["w"])):
        assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.05


def test_the_same_key_gives_the_same_noise_whichever_way_it_comes() -> None:
    grads = examples(4)
    keys = (0, jax.random.key(0), jax.random.PRNGKey(0))
    runs = []
    for key in keys:
        tx = gf.dpsgd(0.1, 1.0, 0.5, key=key)
        runs.append(tx.update(grads, tx.init(PARAMS), PARAMS)[0]["w"])
    np.testing.assert_allclose(runs[0], runs[1], 1e-6)
    np.testing.assert_allclose(runs[0], runs[2], 1e-6)


def test_it_trains_through_a_chain_under_jit() -> None:
    x = jnp.asarray(RNG.normal(size=(64, 3)), jnp.float32)
    truth = jnp.asarray([1.0, -2.0, 0.5])
    y = x @ truth

    def loss(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return 0.5 * (x @ w - y) ** 2

    tx = gf.with_metrics(gf.dpsgd(0.3, 10.0, 0.01, key=0, momentum=0.5))
    w = jnp.zeros(3)
    state = tx.init(w)

    @jax.jit
    def step(w: jax.Array, state: Any) -> Any:
        grads = jax.vmap(jax.grad(loss), (None, 0, 0))(w, x, y)
        updates, state = tx.update(grads, state, w)
        return gf.apply_updates(w, updates), state

    for _ in range(60):
        w, state = step(w, state)
    np.testing.assert_allclose(w, truth, atol=0.05)


def test_half_precision_and_other_dtypes_of_parameters() -> None:
    params = {"w": jnp.zeros(3, jnp.bfloat16)}
    tx = gf.differentially_private_aggregate(1.0, 0.1, key=0)
    updates, _ = tx.update({"w": jnp.ones((4, 3), jnp.float32)}, tx.init(params), params)
    assert updates["w"].dtype == jnp.float32
    updates, _ = tx.update({"w": jnp.ones((4, 3), jnp.bfloat16)}, tx.init(params), params)
    assert updates["w"].dtype == jnp.bfloat16


def test_mistakes_are_named() -> None:
    tx = gf.dpsgd(0.1, 1.0, 0.1, key=0)
    state = tx.init(PARAMS)
    with pytest.raises(
        ValueError, match="'grads' must have 4 examples along the first axis of every leaf; got"
    ):
        tx.update({**examples(4), "w": jnp.ones((3, 2, 3))}, state, PARAMS)
    with pytest.raises(ValueError, match="one example's gradient and params must have equal shapes"):
        tx.update({**examples(4), "b": jnp.ones((4, 2))}, state, PARAMS)
    with pytest.raises(ValueError, match=r"must have one tree structure"):
        tx.update({"w": jnp.ones((4, 2, 3))}, state, PARAMS)
    with pytest.raises(ValueError, match="must have at least one example; got"):
        tx.update(examples(0), state, PARAMS)
    with pytest.raises(TypeError, match="argument 'key' must be one PRNG key or a 64-bit integer; got None"):
        gf.dpsgd(0.1, 1.0, 0.1)
    with pytest.raises(ValueError, match="dpsgd: argument 'l2_norm_clip' must be a number > 0"):
        gf.dpsgd(0.1, 0.0, 0.1, key=0)
