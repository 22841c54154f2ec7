"""adagc, zclip and skip_spikes against their equations, and what they do with outliers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def _gradients(count: int) -> Any:
    rng = np.random.default_rng(3)
    sizes = rng.uniform(0.5, 2.0, size=count)
    sizes[[3, 7, 8]] *= 20
    return [{"a": rng.normal(size=(3, 2)) * s, "b": rng.normal(size=4) * s} for s in sizes]


def _run(tx: Any, gradients: Any) -> Any:
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.zeros_like, gradients[0])
        state, step, history = tx.init(params), jax.jit(tx.update), []
        for g in gradients:
            u, state = step(jax.tree.map(jnp.asarray, g), state, params)
            history.append(jax.tree.map(np.asarray, u))
    return history, state


def _close(history: Any, expected: Any) -> None:
    for u, e in zip(history, expected, strict=True):
        for name in e:
            np.testing.assert_allclose(u[name], e[name], rtol=1e-12, atol=1e-12)


def test_adagc() -> None:
    gradients = _gradients(12)
    history, _ = _run(gf.adagc(1.1, 0.9, 2.0, 3), gradients)
    average: dict[str, Any] = {}
    expected = []
    for t, g in enumerate(gradients):
        whole = np.sqrt(sum(np.sum(x * x) for x in g.values()))
        u = {}
        for name, x in g.items():
            if t < 3:
                u[name] = min(1, 2.0 / whole) * x
                norm = np.linalg.norm(u[name])
                average[name] = min(average.get(name, np.inf), norm)
            else:
                u[name] = min(1, 1.1 * average[name] / np.linalg.norm(x)) * x
                average[name] = 0.9 * average[name] + 0.1 * np.linalg.norm(u[name])
        expected.append(u)
    _close(history, expected)
    assert np.linalg.norm(history[7]["a"]) < 0.1 * np.linalg.norm(gradients[7]["a"])


@pytest.mark.parametrize("first", [0.0, 1e30])
def test_adagc_goes_on_after_a_step_without_gradients_or_an_outlier(first: float) -> None:
    """A minimum of norms that counted such a step would hold every later update of `b` at nothing."""
    gradients = [{"a": np.full(3, first), "b": np.full(2, min(first, 1.0))}]
    gradients += [{"a": np.ones(3), "b": np.ones(2)}] * 4
    history, _ = _run(gf.adagc(1.1, 0.9, 10.0, 3), gradients)
    np.testing.assert_allclose(history[-1]["b"], 1.0, rtol=1e-6)


def test_zclip() -> None:
    gradients = _gradients(12)
    history, state = _run(gf.zclip(0.9, 2.0, 3), gradients)
    norms: list[Any] = []
    mean = variance = 0.0
    expected = []
    for t, g in enumerate(gradients):
        whole = kept = np.sqrt(sum(np.sum(x * x) for x in g.values()))
        if t < 3:
            norms.append(whole)
            mean, variance = np.mean(norms), np.var(norms)
        else:
            z = (whole - mean) / np.sqrt(variance)
            kept = mean + 4.0 / z * np.sqrt(variance) if z > 2.0 else whole
            mean = 0.9 * mean + 0.1 * kept
            variance = 0.9 * variance + 0.1 * (kept - mean) ** 2
        expected.append({name: kept / whole * x for name, x in g.items()})
    _close(history, expected)
    np.testing.assert_allclose([state.mean, state.variance], [mean, variance], rtol=1e-12)
    assert np.linalg.norm(history[7]["a"]) < 0.5 * np.linalg.norm(gradients[7]["a"])


def _skips(gradients: Any, values: Any = None, window: int = 6, sigmas: float = 3.0) -> list[int]:
    tx = gf.skip_spikes(gf.sgd(0.1, momentum=0.9), window, sigmas)
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    state, step, skipped = tx.init(params), jax.jit(tx.update), []
    for t, g in enumerate(gradients):
        extra = {} if values is None else {"value": values[t]}
        before = state.inner_state
        u, state = step(jax.tree.map(jnp.float32, g), state, params, **extra)
        if not any(np.any(x) for x in jax.tree.leaves(u)):
            skipped.append(t)
            jax.tree.map(np.testing.assert_array_equal, state.inner_state, before)
    assert int(state.total_skipped) == len(skipped)
    return skipped


def _expected_skips(numbers: Any, window: int = 6, sigmas: float = 3.0) -> list[int]:
    skipped = []
    for t, x in enumerate(numbers):
        last = numbers[max(0, t - window) : t]
        if len(last) >= window // 2 and x > np.mean(last) + sigmas * np.std(last, ddof=1):
            skipped.append(t)
    return skipped


def test_outliers_of_the_norm_are_skipped_and_leave_no_trace() -> None:
    gradients = _gradients(16)
    norms = [np.sqrt(sum(np.sum(x * x) for x in g.values())) for g in gradients]
    assert _skips(gradients) == _expected_skips(norms) != []


def test_outliers_of_the_loss_are_skipped() -> None:
    gradients = [{"a": np.ones((3, 2)), "b": np.ones(4)}] * 10
    losses = [3.0, 2.9, 2.95, 2.8, 2.7, 9.0, 2.6, 2.5, np.nan, 2.4]
    assert _skips(gradients, losses) == [5, 8]


def test_a_lasting_change_is_accepted() -> None:
    gradients = [{"a": np.full((2,), 1.0 + 0.01 * (t % 2))} for t in range(8)]
    gradients += [{"a": np.full((2,), 5.0 + 0.01 * (t % 2))} for t in range(8)]
    skipped = _skips(gradients)
    assert 8 in skipped
    assert 15 not in skipped


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_skipped_at_once(bad: float) -> None:
    gradients = [{"a": np.ones(2)}, {"a": np.asarray([1.0, bad])}, {"a": np.ones(2)}]
    assert _skips(gradients) == [1]


def test_equal_norms_are_not_spikes() -> None:
    assert _skips([{"a": np.full(3, 0.1)}] * 12) == []
