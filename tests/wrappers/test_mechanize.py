"""Mechanic against its equations in NumPy and float64, and what it hands on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

START = np.array([1.0, -2.0, 0.5, 3.0, -1.5])
CURVATURE = np.array([1.0, 0.3, 2.0, 0.5, 0.1])


def gradient(x: np.ndarray, t: int, noise: float) -> np.ndarray:
    return CURVATURE * x + noise * np.random.default_rng(t).normal(size=x.size)


def reference(decay: float, s_init: float, n: int, noise: float, steps: int) -> list[np.ndarray]:
    """Algorithm 1 with the clipped gain, around SGD at rate 1, written with the sum of its steps."""
    x, delta, eps = START, np.zeros(START.size), 1e-8
    b = 1 - 0.1 ** np.arange(1, n + 1)
    r, m, v, s = np.zeros(n), np.zeros(n), np.zeros(n), np.full(n, s_init)
    path = []
    for t in range(steps):
        g = gradient(x, t, noise)
        full = g + decay * s.sum() * np.linalg.norm(g) / (np.linalg.norm(x) + eps) * x
        # The sum of steps is read off the parameters with an eps beside the factor.
        delta = delta if t == 0 else delta * s.sum() / (s.sum() + eps)
        h = full @ delta
        r = b * r - np.clip(h, -m, m) * s
        m = np.maximum(b * m, abs(h) + eps)
        v = b**2 * v + h**2
        s = (s_init / n * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        delta = delta - g
        x = START + s.sum() * delta
        path.append(x)
    return path


@pytest.mark.parametrize(
    ("decay", "s_init", "n", "noise"),
    [(0.01, 1e-6, 6, 0.1), (0.0, 1e-2, 3, 0.1), (0.3, 1e-3, 1, 0.1), (0.01, 1e-2, 3, 5.0)],
    ids=["small", "no decay", "one beta", "steps that lose"],
)
def test_equations(decay: float, s_init: float, n: int, noise: float) -> None:
    expected = reference(decay, s_init, n, noise, 40)
    with jax.enable_x64(True):
        tx = gf.mechanize(gf.sgd(1.0), weight_decay=decay, s_init=s_init, num_betas=n)
        params = jnp.asarray(START)
        state = tx.init(params)
        step = jax.jit(tx.update)
        for t, x in enumerate(expected):
            updates, state = step(jnp.asarray(gradient(np.asarray(params), t, noise)), state, params)
            params = gf.apply_updates(params, updates)
            np.testing.assert_allclose(params, x, 1e-6, 1e-9, err_msg=f"step {t}")
    assert np.linalg.norm(expected[-1] - START) > 1e-3


def test_extra_arguments_reach_the_optimizer() -> None:
    params = {"w": jnp.asarray([3.0, 4.0])}
    tx = gf.mechanize(gf.polyak_sgd(), s_init=1.0)
    steps = [tx.update(params, tx.init(params), params, value=value)[0]["w"] for value in (1.0, 2.0)]
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-5)
    with pytest.raises(TypeError, match="value"):
        tx.update(params, tx.init(params), params)


def test_it_starts_where_the_first_step_finds_the_parameters() -> None:
    """Weights are often loaded between init and the first step."""
    tx = gf.mechanize(gf.sgd(1.0))
    loaded = jnp.asarray([5.0, 6.0])
    _, state = tx.update(loaded, tx.init(jnp.zeros(2)), loaded)
    np.testing.assert_array_equal(state.x0, loaded)


def test_the_factor_is_reported() -> None:
    params = jnp.asarray([3.0, 4.0])
    tx = gf.with_metrics(gf.mechanize(gf.sgd(1.0)))
    _, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(gf.metrics(state)["factor"], 1e-6, rtol=1e-4)


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match="mechanize: argument 'base_optimizer'"):
        gf.mechanize(gf.sgd)
    with pytest.raises(ValueError, match="mechanize: argument 'num_betas'"):
        gf.mechanize(gf.sgd(1.0), num_betas=0)
    tx = gf.mechanize(gf.sgd(1.0))
    state = tx.init(jnp.ones(2))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(2), state)


def test_without_eps_zero_gradients_and_zero_parameters_are_finite() -> None:
    """For eps = 0 the first scale is the limit of small ones, and a first gradient of 0 keeps it."""
    params = {"w": jnp.zeros(3)}
    tx, near = (gf.mechanize(gf.sgd(1.0), eps=eps) for eps in (0.0, 1e-30))
    state, near_state = tx.init(params), near.init(params)
    for size in (0.0, 0.0, 1.0, 0.5):
        grads = {"w": jnp.full(3, size)}
        updates, state = tx.update(grads, state, params)
        expected, near_state = near.update(grads, near_state, params)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5)
        np.testing.assert_allclose(state.s, near_state.s, rtol=1e-5)
        params = gf.apply_updates(params, updates)
    assert float(jnp.abs(params["w"]).min()) > 0
