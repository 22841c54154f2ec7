"""Minima under constraints: problems of Hock and Schittkowski with known minima and multipliers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks.hock_schittkowski import PROBLEMS


@pytest.mark.parametrize("name", ["HS43", "HS71"])
def test_minimum_and_multipliers_are_those_of_the_book(name):
    problem = PROBLEMS[name]
    with jax.enable_x64(True):
        solve = jax.jit(lambda start: problem.solve(start, tol=1e-8))
        result = solve(jnp.asarray(problem.start))
        assert (result.status, bool(result.converged)) == ("converged", True)
        np.testing.assert_allclose(result.value, problem.value, rtol=1e-7)
        np.testing.assert_allclose(result.params, problem.solution, atol=1e-6)
        np.testing.assert_allclose(problem.multipliers_of(result), problem.multipliers, atol=1e-6)
        assert result.violation <= 1e-8
        assert result.gradient_norm <= 1e-8
        # The conditions of Karush, Kuhn and Tucker, written out; bounds hold back the rest.
        slope = np.asarray(jax.grad(problem.lagrangian)(result.params, result))
        lower, upper = (-np.inf, np.inf) if problem.bounds is None else problem.bounds
        free = (result.params > lower) & (result.params < upper)
        np.testing.assert_allclose(np.where(free, slope, 0), 0, atol=2e-8)
        assert np.all(problem.multipliers_of(result)[problem.equalities :] >= 0)
        assert result.evaluations >= result.steps + result.rounds


def test_right_sides_are_batched_and_multipliers_are_derivatives():
    @jax.jit
    @jax.vmap
    def solve(right):
        return gf.minimize_constrained(
            lambda p, right: jnp.sum((p["a"] - 3) ** 2) + p["b"] ** 2,
            {"a": jnp.zeros(2), "b": jnp.ones(())},
            equality=lambda p, right: {"b": p["b"] - right[0]},
            inequality=lambda p, right: jnp.sum(p["a"]) - right[1],
            args=(right,),
            tol=1e-4,
        )

    # b = c is forced; a = (d / 2, d / 2) where d < 6, and free beyond.
    right = np.array([[1.0, 2.0], [-2.0, 4.0], [0.5, 7.0]], np.float32)
    result = solve(jnp.asarray(right))
    assert list(result.status) == ["converged"] * 3
    np.testing.assert_allclose(result.params["b"], right[:, 0], atol=2e-4)
    np.testing.assert_allclose(result.params["a"][:, 0], np.minimum(right[:, 1] / 2, 3), atol=2e-4)
    np.testing.assert_allclose(result.equality_multipliers["b"], -2 * right[:, 0], atol=2e-3)
    np.testing.assert_allclose(result.inequality_multipliers, [4, 2, 0], atol=2e-3)
    assert result.params["b"].dtype == jnp.float32


def test_what_has_no_solution_says_so():
    def loss(p, least):
        return jnp.sum(p**2) + jnp.log(least)

    def solve(least):
        return gf.minimize_constrained(loss, jnp.ones(2), equality=constraint, args=(least,))

    def constraint(p, _):
        return p[0] ** 2 + 1

    result = solve(1.0)
    assert result.status == "infeasible nearby"
    assert result.violation >= 1
    assert not result.converged
    assert str(result).startswith("infeasible nearby after ")
    assert solve(-1.0).status == "not finite"


def test_where_precision_keeps_the_gradient_above_the_tolerance_the_rounds_end():
    result = gf.minimize_constrained(
        lambda p: jnp.sum((30 * p - jnp.arange(3.0)) ** 2),
        jnp.ones(3),
        equality=lambda p: jnp.sum(p) - 1,
        tol=0.0,
    )
    assert result.status == "stalled at float32 precision"
    assert not result.converged
    assert result.rounds < 20
    np.testing.assert_allclose(result.params, np.arange(3) / 30 + 0.3, atol=1e-6)


def test_without_constraints_and_with_bounds_it_is_minimize():
    result = gf.minimize_constrained(
        lambda p: jnp.sum((p - 2) ** 2), jnp.full(2, 5.0), bounds=(None, 1.0), max_rounds=9
    )
    assert result.status == "converged"
    np.testing.assert_array_equal(result.params, 1)
    assert bool(result.start_moved)
    assert str(result).endswith("; the start was outside the bounds")
    assert result.equality_multipliers is None
    assert result.violation == 0
