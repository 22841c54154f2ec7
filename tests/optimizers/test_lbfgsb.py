"""L-BFGS-B against dense matrices, SciPy's minima, and the conditions at a bound."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks.more_garbow_hillstrom import PROBLEMS
from benchmarks.solvers import bounds_of
from gradflow.optimizers import _bounded_model as bounded

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _float64() -> Any:
    with jax.enable_x64(True):
        yield


def _model(n: int = 7, size: int = 4, pairs: int = 3) -> tuple[bounded.Model, np.ndarray]:
    """The compact model of a few pairs, and the same matrix by BFGS updates one by one."""
    root = RNG.normal(size=(n, n))
    hessian = root @ root.T + np.eye(n)
    zeros = jnp.zeros((size, n)), jnp.zeros((size, n)), jnp.zeros((size, size)), jnp.zeros((size, size))
    kept = bounded.Pairs(*zeros)
    steps = RNG.normal(size=(pairs, n))
    for s in steps:
        kept = bounded.append_pair(kept, jnp.asarray(s), jnp.asarray(hessian @ s))
    y = hessian @ steps[-1]
    dense = np.eye(n) * (y @ y) / (y @ steps[-1])
    for s in steps:
        y, bs = hessian @ s, dense @ s
        dense = dense - np.outer(bs, bs) / (s @ bs) + np.outer(y, y) / (y @ s)
    return bounded.model_of(kept, jnp.ones(())), dense


def test_the_compact_form_is_bfgs() -> None:
    model, dense = _model()
    compact = model.theta * np.eye(7) - model.rows.T @ np.linalg.solve(model.middle, model.rows)
    np.testing.assert_allclose(compact, dense, rtol=1e-9, atol=1e-9)
    # Before and after a step of zero length there is no pair.
    none = bounded.Pairs(*(jnp.zeros(shape) for shape in ((4, 7), (4, 7), (4, 4), (4, 4))))
    assert bounded.model_of(none, jnp.asarray(2.5)).theta == 2.5


def test_elimination_solves() -> None:
    model, _ = _model()
    right = RNG.normal(size=(8, 2))
    np.testing.assert_allclose(
        bounded.solve(model.middle, jnp.asarray(right)), np.linalg.solve(model.middle, right), rtol=1e-8
    )


@pytest.mark.parametrize("width", [0.02, 0.3, np.inf])
def test_the_cauchy_point_is_the_first_minimum_along_the_path(width: float) -> None:
    model, dense = _model()
    x, g = RNG.normal(size=7), 3 * RNG.normal(size=7)
    lower, upper = x - width * RNG.uniform(size=7), x + width * RNG.uniform(size=7)
    lower[2] = x[2] if g[2] > 0 else lower[2]  # one cannot move
    found, free = bounded.cauchy_point(*map(jnp.asarray, (x, g, lower, upper)), model)

    def change(t: float) -> float:
        way = np.clip(x - t * g, lower, upper) - x
        return g @ way + 0.5 * way @ dense @ way

    # A fine grid up to the first rise.
    end = 20 if np.isinf(width) else 1
    grid = np.linspace(0, end, 20_000)
    values = np.array([change(t) for t in grid])
    rises = np.nonzero(np.diff(values) > 0)[0]
    best = grid[rises[0]] if rises.size else grid[-1]
    np.testing.assert_allclose(found, np.clip(x - best * g, lower, upper), atol=3 * grid[1] * np.abs(g).max())
    assert np.all(np.asarray(free) == ((np.asarray(found) > lower) & (np.asarray(found) < upper)))


def test_without_bounds_the_minimum_of_the_model_is_newton_s() -> None:
    model, dense = _model()
    x, g = jnp.asarray(RNG.normal(size=7)), jnp.asarray(RNG.normal(size=7))
    inf = jnp.full(7, jnp.inf)
    np.testing.assert_allclose(
        bounded.bounded_minimum(x, g, -inf, inf, model), x - np.linalg.solve(dense, g), rtol=1e-7
    )


def test_the_subspace_step_is_newton_s_over_the_free_coordinates() -> None:
    model, dense = _model()
    x, g = np.zeros(7), np.where(np.arange(7) < 3, 50.0, 0.1) * np.sign(RNG.normal(size=7))
    lower, upper = np.full(7, -100.0), np.full(7, 100.0)
    lower[:3] = upper[:3] = 0.0  # three cannot move
    found = np.asarray(bounded.bounded_minimum(*map(jnp.asarray, (x, g, lower, upper)), model))
    np.testing.assert_allclose(found[:3], 0, atol=0)
    np.testing.assert_allclose(found[3:], -np.linalg.solve(dense[3:, 3:], g[3:]), rtol=1e-7)


@pytest.mark.parametrize("name", ["Beale", "Wood"])
def test_the_minima_of_scipy(name: str) -> None:
    optimize = importlib.import_module("scipy.optimize")
    problem = PROBLEMS[name]
    gradient = jax.jit(jax.value_and_grad(problem.loss))

    def evaluate(x: Any) -> Any:
        value, grad = gradient(x)
        return float(value), np.asarray(grad)

    def peer(bounds: Any) -> Any:
        options = {"ftol": 0.0, "gtol": 1e-5, "maxcor": 10}
        pairs = None if bounds is None else list(zip(*bounds, strict=True))
        return optimize.minimize(
            evaluate, problem.start, jac=True, method="L-BFGS-B", bounds=pairs, options=options
        )

    bounds = bounds_of(problem, peer(None).x)
    expected = peer(bounds)
    result = gf.minimize(problem.loss, jnp.asarray(problem.start), bounds=bounds)
    assert result.status == "converged"
    np.testing.assert_allclose(result.value, expected.fun, rtol=1e-6, atol=1e-9)
    assert int(result.evaluations) <= 1.2 * expected.nfev + 3
    x = np.asarray(result.params)
    assert np.all((bounds[0] <= x) & (x <= bounds[1]))


def _valley(x: Any, shift: Any = 0.0) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1] + shift) ** 2)


def test_the_conditions_at_a_bound() -> None:
    upper = np.array([0.5, np.inf, 0.2, np.inf])
    result = gf.minimize(_valley, jnp.array([2.0, 0.0, 0.0, 0.0]), tol=1e-9, bounds=(-1.0, upper))
    assert result.status == "converged"
    assert result.start_moved
    assert "the start was outside the bounds" in str(result)
    x, slope = np.asarray(result.params), np.asarray(jax.grad(_valley)(result.params))
    held = x == upper
    assert held[0]
    assert np.all(slope[held] < 0)
    np.testing.assert_allclose(slope[~held], 0, atol=1e-9)
    inside = gf.minimize(_valley, jnp.zeros(4), tol=1e-9, bounds=(-1.0, upper))
    assert not inside.start_moved
    assert "outside" not in str(inside)


def test_bounds_are_trees_with_nothing_in_some_places() -> None:
    def loss(p: Any) -> jax.Array:
        return jnp.sum((p["a"] - 2) ** 2) + jnp.sum((p["b"][0] + 3) ** 2)

    params = {"a": jnp.zeros(2), "b": [jnp.zeros(()), None]}
    bounds = ({"a": None, "b": [-1.0, None]}, {"a": np.array([1.0, np.inf]), "b": [None, None]})
    result = gf.minimize(loss, params, bounds=bounds)
    np.testing.assert_allclose(result.params["a"], [1.0, 2.0], rtol=1e-6)
    assert result.params["b"] == [-1.0, None]


def test_a_batch_of_starts_and_bounds_is_one_program() -> None:
    starts = jnp.asarray([[-1.2, 1.0], [0.0, 0.0], [0.3, -2.0], [0.0, 0.0], [0.0, 0.0]])
    # Between the bounds of the last two there is no point.
    lowers = jnp.asarray([-jnp.inf, -jnp.inf, -jnp.inf, 1.0, 0.0])
    uppers = jnp.asarray([0.5, jnp.inf, 0.1, -1.0, jnp.nan])
    solve = lambda x, *bounds: gf.minimize(_valley, x, tol=1e-8, bounds=bounds)  # noqa: E731
    found = jax.vmap(solve)(starts, lowers, uppers)
    assert list(found.status) == ["converged"] * 3 + ["not finite"] * 2
    x, slope = np.asarray(found.params)[:3], np.asarray(jax.vmap(jax.grad(_valley))(found.params))[:3]
    held = x == np.asarray(uppers)[:3, None]
    assert held.any(axis=1).tolist() == [True, False, True]
    assert np.all(slope[held] < 0)
    np.testing.assert_allclose(slope[~held], 0, atol=1e-8)


def test_a_loss_that_ends_at_its_bound() -> None:
    result = gf.minimize(lambda x: jnp.sum(jnp.sqrt(x) + 1 / (4 * x)), jnp.full(3, 1e-3), bounds=(1e-3, 9.0))
    assert result.status == "converged"
    np.testing.assert_allclose(result.params, 0.25 ** (1 / 1.5) * 2 ** (1 / 1.5), rtol=1e-4)


def test_alone_it_moves_a_start_inside_without_a_search() -> None:
    tx = gf.lbfgsb(0.0, 1.0)
    x = jnp.asarray([2.0, -1.0, 0.5])
    state = tx.init(x)
    arguments = {"value": 0.0, "grad": x, "value_fn": lambda p: jnp.sum(p**2)}
    update, state = tx.update(x, state, x, **arguments)
    np.testing.assert_array_equal(x + update, [1.0, 0.0, 0.5])
    assert state.search.info.num_linesearch_steps == 0
    assert state.search.value == jnp.inf


def test_another_optimizer_is_projected() -> None:
    result = gf.minimize(lambda x: jnp.sum((x - 2) ** 2), jnp.zeros(2), gf.sgd(0.1), bounds=(None, 1.0))
    assert result.status == "converged"
    np.testing.assert_allclose(result.params, 1.0)
    few = gf.minimize(_valley, jnp.zeros(3), gf.lbfgsb(memory_size=2), bounds=(None, 0.5))
    assert few.status == "converged"
