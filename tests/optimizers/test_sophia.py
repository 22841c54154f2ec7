"""Sophia against the paper's Algorithm 3, and its estimator of the Hessian's diagonal."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

CURVATURE = np.asarray([3.0, -2.0, 0.5, 1000.0])


def loss(p: Any) -> Any:
    return 0.5 * jnp.sum(jnp.asarray(CURVATURE, p.dtype) * p * p)


def paper(grads: list[Any], interval: int, bound: float) -> list[Any]:
    """Updates of Algorithm 3 with a bias-corrected momentum; of a diagonal Hessian each estimate is exact."""
    m, h, updates = np.zeros(4), np.zeros(4), []
    for t, g in enumerate(grads, 1):
        m = 0.9 * m + 0.1 * g
        if (t - 1) % interval == 0:
            h = 0.8 * h + 0.2 * CURVATURE
        updates.append(np.clip(m / (1 - 0.9**t) / np.maximum(0.05 * h, 1e-3), -bound, bound))
    return updates


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("bound", [1.0, None])
def test_updates_follow_the_paper(interval: int, bound: float | None) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=4) for _ in range(8)]
    expected = paper(grads, interval, np.inf if bound is None else bound)
    with jax.enable_x64(True):
        tx = gf.scale_by_sophia(0.9, 0.8, 1e-3, 0.05, bound, interval)
        params = jnp.zeros(4)
        state = tx.init(params)
        step = jax.jit(lambda g, s: tx.update(g, s, params, obj_fn=loss))
        for g, e in zip(grads, expected, strict=True):
            u, state = step(jnp.asarray(g), state)
            np.testing.assert_allclose(u, e, rtol=1e-9)


def test_the_estimate_is_made_on_its_steps_alone() -> None:
    tx = gf.scale_by_sophia(update_interval=3)
    params = jnp.ones(4)
    state = tx.init(params)
    changed = []
    for _ in range(7):
        _, new = tx.update(params, state, params, obj_fn=loss)
        changed.append(bool(jnp.any(new.nu != state.nu)))
        key, old = new.hessian_fn_state.key, state.hessian_fn_state.key
        assert bool(jnp.any(key != old)) == changed[-1]
        state = new
    assert changed == [True, False, False, True, False, False, True]


def test_steps_without_an_estimate_copy_no_state() -> None:
    n = 10_000
    params = jnp.ones((n,))
    tx = gf.scale_by_sophia()
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, obj_fn=lambda p: jnp.sum(p**4)), donate_argnums=(0, 1))
    compiled = step.lower(params, tx.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3.1 * 4 * n  # the estimate's own
    assert not [s for s in re.findall(r"= f32\[(\d+)\]\S* copy\(", compiled.as_text()) if int(s) == n]


def test_the_mean_of_the_estimates_is_the_diagonal() -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 3))
    matrix = matrix + matrix.T
    estimator = gf.hutchinson_estimator_diag_hessian(jax.random.key(1))
    params = {"a": jnp.zeros((2,)), "b": jnp.zeros((1,)), "none": None}

    def quadratic(p: Any) -> Any:
        x = jnp.concatenate([p["a"], p["b"]])
        return 0.5 * x @ jnp.asarray(matrix, jnp.float32) @ x

    def one(state: Any, _: Any) -> Any:
        u, state = estimator.update(params, state, params, obj_fn=quadratic)
        return state, jnp.concatenate([u["a"], u["b"]])

    _, estimates = jax.lax.scan(one, estimator.init(params), None, length=4000)
    np.testing.assert_allclose(estimates.mean(0), np.diag(matrix), atol=0.15)
    assert float(estimates.std(0).max()) > 0.5


def test_an_estimator_of_ones_own_is_averaged_and_its_reports_are_heard() -> None:
    @gf.transformation(reports=("seen",))
    def squares() -> Any:
        def update(updates: Any, state: gf.EmptyState, params: Any = None) -> Any:
            gf.report("seen", 7.0)
            return jax.tree.map(lambda g: g * g, updates), state

        return lambda params: gf.EmptyState(), update

    tx = gf.with_metrics(gf.scale_by_sophia(b2=0.5, hessian_diagonal_fn=squares(), update_interval=2))
    params = jnp.asarray([1.0, 2.0])
    _, state = tx.update(params, tx.init(params), params)
    told = gf.metrics(state)
    np.testing.assert_allclose(state.inner_state.nu, [0.5, 2.0])
    assert [v for k, v in told.items() if k.endswith("squares.seen")] == [7.0]
    assert [float(v) for k, v in told.items() if k.endswith("win_rate")] == [0.0]


def test_the_win_rate_is_printed_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    tx = gf.scale_by_sophia(gamma=1.0, verbose=True, print_win_rate_every_n_steps=2)
    params = jnp.ones(4)
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params, obj_fn=loss)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("win rate") == 2


def test_a_missing_loss_is_named() -> None:
    tx = gf.sophia(0.1)
    params = jnp.ones(4)
    with pytest.raises(TypeError, match="obj_fn"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(TypeError, match="key"):
        gf.hutchinson_estimator_diag_hessian("seed")
