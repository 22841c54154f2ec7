"""gsam, looksam, msam and bsam against their algorithms in NumPy and float64."""

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

# Two leaves of a quadratic with a full Hessian: norms and inner products run over both.
_ROOT = np.random.default_rng(0).normal(size=(5, 5))
HESSIAN = _ROOT @ _ROOT.T + np.eye(5)
START = np.asarray([1.0, -2.0, 0.5, 3.0, -0.3])
RHO, RATE = 0.05, 0.03
ADVERSARY = gf.chain(gf.normalize(), gf.sgd(RHO))


def tree_of(x: Any) -> Any:
    return {"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:])}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([tree["a"], tree["b"]])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def run(tx: gf.GradientTransformation, calls: int) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """The parameters after each call, which has the gradient where they are."""
    with jax.enable_x64(True):
        params = tree_of(START)
        state = tx.init(params)
        step = jax.jit(tx.update)
        for _ in range(calls):
            updates, state = step(tree_of(HESSIAN @ flat(params)), state, params)
            params = gf.apply_updates(params, updates)
            yield flat(params), state, params


def close(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_gsam(alpha: float) -> None:
    """Zhuang et al. 2022, Algorithm 1; alpha 0 is SAM."""
    w = START
    for i, (found, _, _) in enumerate(run(gf.gsam(gf.sgd(RATE), ADVERSARY, alpha), 8)):
        g = HESSIAN @ w
        climbed = w + RHO * unit(g)
        if i % 2 == 0:
            close(found, climbed)
            continue
        above = HESSIAN @ climbed
        across = g - (g @ above) * above / (above @ above)
        w = w - RATE * (above - alpha * across)
        close(found, w)


@pytest.mark.parametrize("period", [1, 3])
def test_looksam(period: int) -> None:
    """Liu et al. 2022, Algorithm 1: a round takes one call more than it has steps."""
    w, v = START, np.zeros(5)
    for i, (found, _, _) in enumerate(run(gf.looksam(gf.sgd(RATE), ADVERSARY, period, 0.7), 10)):
        g = HESSIAN @ w
        call = i % (period + 1)
        if call == 0:
            close(found, w + RHO * unit(g))
            continue
        if call == 1:
            step = HESSIAN @ (w + RHO * unit(g))
            v = step - (g @ step) * g / (g @ g)
        else:
            step = g + 0.7 * np.linalg.norm(g) * unit(v)
        w = w - RATE * step
        close(found, w)


def test_msam() -> None:
    """Becker et al. 2024, Algorithm 1, with Adam and a decay of the weights themselves."""
    tx = gf.msam(gf.adamw(RATE, weight_decay=0.1), 0.3, 0.9)
    w, y = START, START
    mu, nu = np.zeros(5), np.zeros(5)
    for t, (found, state, params) in enumerate(run(tx, 6), 1):
        g = HESSIAN @ y
        mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * g * g
        adam = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (adam + 0.1 * w)
        y = w - 0.3 * unit(mu)
        np.testing.assert_allclose(found, y, rtol=1e-12)
        with jax.enable_x64(True):
            np.testing.assert_allclose(flat(gf.eval_params(state, params)), w, rtol=1e-12)


def test_bsam() -> None:
    """Möllenhoff and Khan 2023, Algorithm 1, with the noise that was drawn; the first gradient has none."""
    tx = gf.bsam(RATE, 100, 0.02, 0.9, 0.99, weight_decay=0.1, damping=0.2, initial_precision=2.0, key=1)
    w, m, s = START, np.zeros(5), np.full(5, 2.0)
    y, noises = w, []
    for i, (found, state, params) in enumerate(run(tx, 12)):
        if i % 2 == 0:
            g = HESSIAN @ y
            climbed = w + 0.02 * g / s
            close(found, climbed)
            continue
        m = 0.9 * m + 0.1 * (HESSIAN @ climbed + 0.1 * w)
        w = w - RATE * m / s
        s = 0.99 * s + 0.01 * (np.sqrt(s) * np.abs(g) + 0.2 + 0.1)
        y = found
        noises.append((y - w) * np.sqrt(100 * s))
        with jax.enable_x64(True):
            close(flat(gf.eval_params(state, params)), w)
        close(flat(state.precision), s)
    assert len({noise for step in noises for noise in step.round(6)}) == 30
    assert 0.5 < np.std(noises) < 1.5


def test_the_noise_of_bsam_is_normal() -> None:
    tx = gf.bsam(0.0, 50, initial_precision=4.0)
    params = jnp.ones(40_000)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jnp.zeros(40_000), state, params)
    sample = np.sort(np.asarray(updates) * np.sqrt(50 * np.asarray(state.precision)))
    quantiles = [NormalDist().inv_cdf(q) for q in (0.02, 0.25, 0.5, 0.75, 0.98)]
    np.testing.assert_allclose(sample[[800, 10_000, 20_000, 30_000, 39_200]], quantiles, atol=0.05)


def test_reports_and_gradients_of_zero() -> None:
    """A zero gradient moves nothing, and the adversary's state begins again after a round."""
    zero, params = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    tx = gf.gsam(gf.sgd(0.1), gf.chain(gf.normalize(), gf.sgd(0.1, momentum=0.9)))
    state, climbed = tx.init(params), []
    for g in (zero, zero, params, params):
        with gf.collecting() as found:
            updates, state = tx.update(g, state, params)
        climbed += [float(v) for name, v in found.values.items() if name.endswith("adversarial")]
        assert bool(jnp.any(updates["w"] != 0)) == bool(jnp.any(g["w"] != 0))
    assert climbed == [1, 0, 1, 0]
    assert float(jnp.abs(state.adv_state[1][0].trace["w"]).max()) == 0


@pytest.mark.parametrize("make", [gf.gsam, gf.looksam])
def test_directions_of_the_largest_gradients_are_finite(make: Any) -> None:
    """The largest float32 in float32 and in bfloat16, whose range is smaller; what is infinite shows."""
    tx = make(gf.identity(), gf.chain(gf.normalize(), gf.sgd(RHO)))
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jnp.ones(3, dtype)
        signs = jnp.asarray([1.0, -1.0, 1.0], dtype)
        state, step = tx.init(params), jax.jit(tx.update)
        for change in ([1, 1, 1], [1, 1, -1], [-1, 1, 1], [-1, 1, -1]):
            grads = jnp.finfo(dtype).max * signs * jnp.asarray(change, dtype)
            updates, state = step(grads, state, params)
            assert np.isfinite(np.asarray(updates, np.float32)).all()
        for _ in range(2):
            updates, state = step(jnp.full(3, jnp.inf, dtype), state, params)
        assert not np.isfinite(np.asarray(updates, np.float32)).any()
