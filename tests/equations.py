"""Runs a transformation beside its equations, written in NumPy and float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf

STEPS = 12
Memory = dict[str, Any]


def corrected(average: Any, b: float, t: int) -> Any:
    """An average that began at zero, divided by the sum of its weights."""
    return average / (1 - b**t)


def adam_moments(m: Memory, g: Any, b1: float, b2: float) -> None:
    """The two averages of Adam, before their correction."""
    m["mu"] = b1 * m.get("mu", 0) + (1 - b1) * g
    m["nu"] = b2 * m.get("nu", 0) + (1 - b2) * g**2


def adam(m: Memory, g: Any, t: int, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8) -> Any:
    """Adam's direction at step t, from 1."""
    adam_moments(m, g, b1, b2)
    return corrected(m["mu"], b1, t) / (np.sqrt(corrected(m["nu"], b2, t)) + eps)


def assert_follows(
    rule: Callable[[Memory, Any, Any, int], Any], tx: gf.GradientTransformation, steps: int = STEPS
) -> None:
    """`rule(memory, g, p, t)` is the update of one leaf at step t, from 1; so must be that of `tx`."""
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 4), "b": (4,), "K": (2, 3, 2)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    memories: dict[str, Memory] = {name: {} for name in shapes}
    with jax.enable_x64(True):
        state = tx.init(jax.tree.map(jnp.asarray, params))
        step = jax.jit(tx.update)
        for t in range(1, steps + 1):
            grads = {name: rng.normal(size=shape) for name, shape in shapes.items()}
            grads["b"][t % 4] = 0.0
            u, state = step(*jax.tree.map(jnp.asarray, (grads, state, params)))
            for name in shapes:
                expected = rule(memories[name], grads[name], params[name], t)
                np.testing.assert_allclose(u[name], expected, rtol=1e-12, atol=1e-12, err_msg=f"{t}, {name}")
                params[name] = params[name] + expected
