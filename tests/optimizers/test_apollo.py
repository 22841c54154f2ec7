"""APOLLO against its equations, with the same projections."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.optimizers import _apollo

SHAPES = {"wide": (4, 7), "tall": (6, 3), "vector": (5,)}
RANK, GAP, LIMIT = 2, 3, 1.05


PROJECTIONS = {
    "wide": np.random.default_rng(1).normal(size=(RANK, 4)),
    "tall": np.random.default_rng(2).normal(size=(3, RANK)),
    "vector": np.zeros(()),
}


def _norm(x: Any, axis: Any) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


@pytest.mark.parametrize("tensor_wise", [False, True])
def test_equations(tensor_wise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = jax.tree.map(np.float32, PROJECTIONS)
    monkeypatch.setattr(_apollo, "_projections", lambda key, updates, rank: jax.tree.map(jnp.asarray, fixed))
    rng = np.random.default_rng(0)
    gradients = [{k: rng.normal(size=shape) * (1 + t) for k, shape in SHAPES.items()} for t in range(8)]
    memory: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    with jax.enable_x64(True):
        tx = gf.scale_by_apollo(RANK, GAP, 0.5, b2=0.99, growth_limit=LIMIT, key=7, tensor_wise=tensor_wise)
        state = tx.init({name: jnp.zeros(shape) for name, shape in SHAPES.items()})
        step = jax.jit(tx.update)
        for t, g in enumerate(gradients):
            u, state = step(jax.tree.map(jnp.asarray, g), state)
            for name in SHAPES:
                m, x = memory[name], g[name]
                r, axis = x, None
                if x.ndim == 2:
                    wide = x.shape[0] < x.shape[1]
                    p = np.asarray(fixed[name], np.float64)
                    r, axis = (p @ x, 0) if wide else (x @ p, 1)
                m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * r
                m["nu"] = 0.99 * m.get("nu", 0) + 0.01 * r * r
                d = m["mu"] / (1 - 0.9 ** (t + 1)) / (np.sqrt(m["nu"] / (1 - 0.99 ** (t + 1))) + 1e-8)
                expected = d
                if x.ndim == 2:
                    axis = None if tensor_wise else axis
                    expected = x * _norm(d, axis) / (_norm(r, axis) + 1e-8)
                    whole = np.linalg.norm(expected)
                    last = m.get("norm", np.inf)
                    expected = expected * min(1, LIMIT * last / whole)
                    m["norm"] = np.linalg.norm(expected)
                    expected = 0.5 * expected
                np.testing.assert_allclose(u[name], expected, rtol=1e-12, atol=1e-12, err_msg=f"{t} {name}")


def test_the_state_of_a_matrix_has_the_rank() -> None:
    state = gf.scale_by_apollo(4).init({"w": jnp.zeros((64, 32)), "b": jnp.zeros(32)})
    assert state.mu["w"].shape == state.nu["w"].shape == (64, 4)
    assert state.mu["b"].shape == (32,)


def test_a_projection_is_random_and_lasts_for_the_gap() -> None:
    """Without decay the first moment is the projected gradient itself."""
    params = jnp.zeros((60, 300))
    tx = gf.scale_by_apollo(50, GAP, b1=0.0, b2=0.0)
    state, step, seen = tx.init(params), jax.jit(tx.update), []
    for _ in range(2 * GAP):
        _, state = step(jnp.eye(60, 300), state)
        seen.append(np.asarray(state.mu)[:, :60])
    for t in range(2 * GAP):
        np.testing.assert_array_equal(seen[t], seen[GAP * (t // GAP)])
    assert abs(np.corrcoef(seen[0].ravel(), seen[GAP].ravel())[0, 1]) < 0.1
    np.testing.assert_allclose(np.var(seen[0]), 1 / 50, rtol=0.1)
    assert abs(np.mean(seen[0])) < 0.01
