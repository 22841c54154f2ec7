"""Adam-mini: one second moment for each output, or for each head."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from equations import assert_follows

import gradflow as gf


def test_adam_mini() -> None:
    def rule(m: Any, g: Any, p: Any, t: int) -> Any:
        axes = {1: (0,), 2: (0,), 3: (0,)}[p.ndim]
        m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * g
        m["nu"] = 0.99 * m.get("nu", 0) + 0.01 * np.mean(g * g, axis=axes, keepdims=True)
        direction = m["mu"] / (1 - 0.9**t) / (np.sqrt(m["nu"] / (1 - 0.99**t)) + 1e-8)
        return -0.1 * (direction + 0.01 * p)

    assert_follows(rule, gf.adam_mini(0.1, b2=0.99, weight_decay=0.01))


def test_adam_mini_of_heads_keeps_one_number_for_each() -> None:
    params = jnp.ones((6, 4, 3))
    tx = gf.scale_by_adam_mini(axis=(0, 2))
    state = tx.init(params)
    assert state.nu.shape == (1, 4, 1)
    g = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 3)), jnp.float32)
    u, _ = tx.update(g, state)
    np.testing.assert_allclose(np.mean(np.square(u), axis=(0, 2)), np.ones(4), rtol=1e-5)
