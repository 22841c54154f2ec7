"""L-BFGS against the dense update of the inverse Hessian, and what it does where curvature fails."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._training._minimize import minimize


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def dense_direction(pairs: list[tuple[np.ndarray, np.ndarray]], g: np.ndarray, scaled: bool) -> np.ndarray:
    """`H g`, with H updated pair by pair as a matrix: Nocedal & Wright 2006, equations 6.17 and 7.20."""
    eye = np.eye(g.size)
    if not pairs:
        return g * min(1.0, 1 / np.linalg.norm(g)) if scaled else g
    s, y = pairs[-1]
    inverse = eye * (s @ y) / (y @ y) if scaled else eye
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = eye - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return inverse @ g


@pytest.mark.parametrize("scaled", [True, False])
def test_two_loops_are_the_dense_inverse_hessian(scaled: bool) -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    hessian = root @ root.T + np.eye(6)
    with jax.enable_x64(True):
        tx = gf.scale_by_lbfgs(memory_size=3, scale_init_precond=scaled)

        def as_tree(x: np.ndarray) -> Any:
            return {"a": jnp.asarray(x[:4].reshape(2, 2)), "b": (None, jnp.asarray(x[4:]))}

        state = tx.init(as_tree(np.zeros(6)))
        pairs: list[Any] = []
        before = None
        for _ in range(7):  # more steps than the memory holds
            x = rng.normal(size=6)
            g = hessian @ x
            if before is not None:
                pairs = [*pairs, (x - before[0], g - before[1])][-3:]
            before = x, g
            u, state = tx.update(as_tree(g), state, as_tree(x))
            actual = np.concatenate([np.ravel(u["a"]), u["b"][1]])
            np.testing.assert_allclose(actual, dense_direction(pairs, g, scaled), rtol=1e-9)


def numpy_two_loops(pairs: list[tuple[np.ndarray, np.ndarray]], g: np.ndarray) -> np.ndarray:
    """Nocedal & Wright 2006, algorithm 7.4, as it is printed."""
    q, shares = g.copy(), []
    for s, y in reversed(pairs):
        shares.append(s @ q / (y @ s))
        q -= shares[-1] * y
    s, y = pairs[-1]
    r = s @ y / (y @ y) * q
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        r += s * (share - y @ r / (y @ s))
    return r


@pytest.mark.parametrize("sizes", [(7,), (1, 512, 3), (513, 40)])  # on both sides of what one pass sums
@pytest.mark.parametrize("condition", [1e1, 1e6])
def test_compiled_two_loops_are_those_of_the_book(sizes: tuple[int, ...], condition: float) -> None:
    rng = np.random.default_rng(1)
    n = sum(sizes)
    curvature = np.logspace(0, np.log10(condition), n)
    places = np.cumsum(sizes)[:-1]
    with jax.enable_x64(True):
        tx = gf.scale_by_lbfgs(memory_size=4)
        update = jax.jit(tx.update)
        state = tx.init([jnp.zeros(size) for size in sizes])
        x, points = rng.normal(size=n), []
        for _ in range(7):
            g = curvature * x
            points.append((x, g))
            u, state = update(*([jnp.asarray(part) for part in np.split(g, places)], state),
                              [jnp.asarray(part) for part in np.split(x, places)])  # fmt: skip
            x = x - 0.3 * rng.uniform(size=n) * x
        pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)][-4:]
        expected = numpy_two_loops(pairs, points[-1][1])
        error = np.linalg.norm(np.concatenate(u) - expected) / np.linalg.norm(expected)
        assert error < 1e-15 * condition
        weights = np.sort(state.weights_memory)
        np.testing.assert_allclose(weights, np.sort([1 / (s @ y) for s, y in pairs]), rtol=1e-12)


def test_evaluations_on_a_logistic_regression() -> None:
    """Hardly more than one evaluation a step, and no retrace of a function that was solved before."""
    rng = np.random.default_rng(0)
    traces = []

    def loss(w: jax.Array, xs: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(1)
        return jnp.mean(jnp.logaddexp(0.0, -labels * (xs @ w))) + 1e-4 * jnp.sum(w * w)

    with jax.enable_x64(True):
        found = []
        for _ in range(3):
            xs = jnp.asarray(rng.normal(size=(500, 64)))
            labels = jnp.asarray(np.sign(rng.normal(size=500) + np.asarray(xs) @ rng.normal(size=64)))
            found.append(minimize(loss, jnp.zeros(64), tol=1e-6, args=(xs, labels)))
            if len(found) == 1:
                once = len(traces)
        assert len(traces) == once
        for result in found:
            assert result.converged
            assert int(result.evaluations) <= 1.1 * int(result.steps) + 2
            assert result.evaluations <= 45


def test_a_pair_without_curvature_is_left_out() -> None:
    tx = gf.scale_by_lbfgs(memory_size=2)
    x, g = jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, 0.25])
    _, state = tx.update(g, tx.init(x), x)
    _, state = tx.update(2 * g, state, x + g)  # the gradient grew along the step
    weights = np.asarray(state.weights_memory)
    u, state = tx.update(g, state, x + 2 * g)  # and now it shrank
    assert np.count_nonzero(weights) == np.count_nonzero(state.weights_memory) == 1
    s, y = np.asarray(g, np.float64), np.asarray(g, np.float64)
    np.testing.assert_allclose(u, dense_direction([(s, y)], np.asarray(g, np.float64), True), rtol=1e-5)


def test_a_step_that_led_nowhere_empties_the_memory() -> None:
    tx = gf.scale_by_lbfgs()
    x, g = jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, 0.25])
    _, state = tx.update(g, tx.init(x), x)
    _, state = tx.update(2 * g, state, x + g)
    u, state = tx.update(2 * g, state, x + g)
    assert not np.any(state.weights_memory)
    np.testing.assert_allclose(u, 2 * g / np.linalg.norm(2 * g))


def test_the_first_state_has_the_type_of_all_later_ones() -> None:
    """The peer's state changes type in its first step."""
    tx = gf.lbfgs()

    def step(carry: Any, _: Any) -> tuple[Any, jax.Array]:
        x, state = carry
        value, grad = gf.value_and_grad_from_state(rosenbrock)(x, state=state)
        u, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=rosenbrock)
        return (gf.apply_updates(x, u), state), value

    x = jnp.full((6,), -1.0)
    (x, _), values = jax.lax.scan(step, (x, tx.init(x)), length=60)
    assert np.all(np.diff(values) <= 1e-6)
    assert rosenbrock(x) < 1e-6


def test_a_complex_parameter_is_two_real_ones() -> None:
    target = jnp.asarray([1.0 + 2.0j, -0.5j])
    weight = jnp.asarray([1.0, 30.0])

    def loss(z: jax.Array) -> jax.Array:
        gap = z - target
        return jnp.sum(weight * (jnp.square(gap.real) + 3 * jnp.square(gap.imag)))

    def real_loss(x: jax.Array) -> jax.Array:
        return loss(jax.lax.complex(x[0], x[1]))

    found = minimize(loss, jnp.zeros((2,), jnp.complex64), max_steps=4, tol=0.0)
    pairs = minimize(real_loss, jnp.zeros((2, 2)), max_steps=4, tol=0.0)
    np.testing.assert_allclose(
        found.params, np.asarray(pairs.params[0]) + 1j * np.asarray(pairs.params[1]), rtol=1e-4, atol=1e-4
    )
    assert int(found.evaluations) == int(pairs.evaluations)
    assert minimize(loss, jnp.zeros((2,), jnp.complex64), tol=1e-3).converged


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_parameters_have_a_wide_memory(dtype: Any) -> None:
    tx = gf.lbfgs()
    params = {"a": jnp.ones((3,), dtype), "b": None}
    state = tx.init(params)
    assert state[0].diff_params_memory["a"].dtype == state[0].updates["a"].dtype == jnp.float32
    assert state[0].params["a"].dtype == state[2].grad["a"].dtype == dtype
    assert state[2].value.dtype == jnp.float32
    result = minimize(lambda p: jnp.sum(jnp.square(p["a"].astype(jnp.float32) - 0.5)), params)
    assert result.params["a"].dtype == dtype
    np.testing.assert_array_equal(result.params["a"], jnp.full((3,), 0.5, dtype))


def test_without_a_line_search_the_rate_alone_counts() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x) * jnp.asarray([1.0, 10.0]))

    result = minimize(loss, jnp.asarray([1.0, 1.0]), gf.lbfgs(0.5, linesearch=None), max_steps=100)
    assert result.converged
    assert result.evaluations == result.steps + 1
    x = jnp.ones((2,))
    state = gf.lbfgs().init(x)
    with pytest.raises(TypeError, match="'value'"):
        gf.lbfgs().update(x, state, x)


@pytest.mark.parametrize("size", [1e3, 1e18, 1e19, 1e30])
def test_the_first_step_has_length_one_where_the_squared_norm_overflows(size: float) -> None:
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    grads = jax.tree.map(lambda p: size * p, params)
    tx = gf.scale_by_lbfgs()
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(gf.tree.norm(updates), 1.0, rtol=1e-6)
