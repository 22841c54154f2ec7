"""Whole solves by L-BFGS, compiled: time to tolerance, and evaluations, in float64."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks.measure import interleaved
from benchmarks.rows import Row

TOLERANCE = 1e-6  # of the largest entry of the gradient


class Problem(NamedTuple):
    """A function and where to begin."""

    function: Callable[[Any], Any]
    start: Any


def problems() -> dict[str, Problem]:
    """Rosenbrock's valley, a quadratic of condition 1e4, and logistic regression on the digits' shape."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    hessian = jnp.asarray(rotation * np.logspace(0, 4, 50) @ rotation.T)
    target = jnp.asarray(rng.normal(size=50))
    images = jnp.asarray(rng.normal(size=(500, 64)))
    labels = jnp.asarray(np.sign(rng.normal(size=500) + np.asarray(images) @ rng.normal(size=64)))

    def rosenbrock(x: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def quadratic(x: Any) -> Any:
        return 0.5 * (x - target) @ hessian @ (x - target)

    def logistic(w: Any) -> Any:
        return jnp.mean(jnp.logaddexp(0.0, -labels * (images @ w))) + 1e-4 * jnp.sum(w * w)

    return {
        "rosenbrock-20": Problem(rosenbrock, jnp.tile(jnp.asarray([-1.2, 1.0]), 10)),
        "quadratic, condition 1e4": Problem(quadratic, jnp.zeros(50)),
        "logistic regression": Problem(logistic, jnp.zeros(64)),
    }


def _ours(problem: Problem) -> Callable[[], Any]:
    return lambda: gf.minimize(problem.function, problem.start, max_steps=1000, tol=TOLERANCE)


def _peer(problem: Problem) -> Callable[[], Any]:
    """The loop of the peer's documentation, with its evaluations counted."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(problem.function)

    def go_on(carry: Any) -> Any:
        _, state, steps, _ = carry
        grad = optax.tree.get(state, "grad")
        return (steps == 0) | ((steps < 1000) & (jnp.max(jnp.abs(grad)) > TOLERANCE))

    def step(carry: Any) -> Any:
        x, state, steps, evaluations = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=problem.function)
        info = optax.tree.get(state, "info")
        x = optax.apply_updates(x, updates)
        return x, state, steps + 1, evaluations + info.num_linesearch_steps.astype(jnp.int32)

    @jax.jit
    def solve(x: Any) -> Any:
        return jax.lax.while_loop(go_on, step, (x, solver.init(x), jnp.int32(0), jnp.int32(1)))

    return lambda: solve(problem.start)


def lbfgs(quick: bool) -> Iterator[Row]:
    """`minimize` against the peer's solver in a compiled loop."""
    with jax.enable_x64(True):
        for name, problem in problems().items():
            ours, peer = _ours(problem), _peer(problem)
            yield Row(name, "solve", interleaved(ours, peer, 10 if quick else 40))
            result, (_, _, steps, evaluations) = ours(), peer()
            yield Row(name, "iterations", None, int(result.steps), int(steps))
            yield Row(name, "evaluations", None, int(result.evaluations), int(evaluations))
