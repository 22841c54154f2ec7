"""Assignments against all permutations, and against the second witness where those are too many."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow.assignment import base_hungarian_algorithm, hungarian_algorithm

solve = jax.jit(hungarian_algorithm)


def best_by_enumeration(cost):
    """The least total in float64, over every injection of the shorter side into the longer."""
    cost = np.asarray(cost, np.float64)
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows = np.arange(cost.shape[0])
    columns = np.array(list(itertools.permutations(range(cost.shape[1]), len(rows))))
    return cost[rows, columns].sum(axis=1).min()


def total(cost, pairs):
    """The cost of the pairs, after checking that they are an assignment."""
    i, j = map(np.asarray, pairs)
    assert i.dtype == j.dtype == np.int32
    assert i.shape == j.shape == (min(cost.shape),)
    assert len(set(i)) == len(set(j)) == len(i)
    assert list(i) == sorted(i)
    assert ((i >= 0) & (i < cost.shape[0]) & (j >= 0) & (j < cost.shape[1])).all()
    return np.asarray(cost, np.float64)[i, j].sum()


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (6, 6), (1, 4), (4, 1), (3, 6), (6, 3), (5, 7)])
@pytest.mark.parametrize("kind", ["normal", "ties", "shifted"])
def test_least_total_by_enumeration(shape, kind):
    rng = np.random.default_rng(0)
    for _ in range(15):
        cost = {
            "normal": lambda: rng.normal(size=shape),
            "ties": lambda: rng.integers(-2, 3, size=shape),
            "shifted": lambda: 100 + rng.exponential(size=shape),
        }[kind]().astype(np.float32)
        assert total(cost, solve(cost)) == pytest.approx(best_by_enumeration(cost), abs=2e-4)


@pytest.mark.parametrize("shape", [(20, 45)])
def test_second_witness(shape):
    cost = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = optax.assignment.hungarian_algorithm(jnp.asarray(cost))
    i, j = map(np.asarray, expected)
    assert total(cost, solve(cost)) == pytest.approx(float(cost[i, j].sum()), abs=1e-4)


def test_textbook_pairs():
    cost = jnp.array([[8, 4, 7], [5, 2, 3], [9, 6, 7], [9, 4, 8]])
    i, j = hungarian_algorithm(cost)
    assert total(cost, (i, j)) == 15
    assert base_hungarian_algorithm is hungarian_algorithm


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.uint32, np.bool_, jnp.bfloat16, np.float16]
)
def test_dtypes(dtype):
    rng = np.random.default_rng(2)
    cost = rng.integers(0, 2 if dtype == np.bool_ else 100, size=(4, 5)).astype(dtype)
    assert total(cost.astype(np.float64), solve(cost)) == best_by_enumeration(cost)


def test_integers_are_exact_beyond_float32():
    base = np.array([[0, 1, 2], [1, 0, 3], [5, 1, 0]])
    cost = (2**30 + base).astype(np.int32)
    i, j = map(np.asarray, solve(cost))
    assert base[i, j].sum() == 0
    # Sums that leave 32 bits end too.
    extreme = np.array([[2**31 - 1, -(2**31)], [-(2**31), 2**31 - 1]], np.int32)
    total(extreme, solve(extreme))


def test_forbidden_pairs_are_avoided():
    inf = np.inf
    cost = np.array([[inf, 1, inf], [1, 0, 5], [inf, 2, 9]], np.float32)
    _, j = solve(cost)
    # Rows 0 and 2 both want column 1: one forbidden pair is needed, and the rest is the cheapest.
    assert np.isinf(cost[np.arange(3), j]).sum() == 0
    assert list(np.asarray(j)) == [1, 0, 2]
    for bad in (inf, np.nan, np.finfo(np.float32).max):
        only = np.where(np.eye(4, dtype=bool)[[2, 0, 3, 1]], np.float32(1), np.float32(bad))
        assert list(np.asarray(solve(only)[1])) == [2, 0, 3, 1]
    wanted = np.array([[0, 1, 2], [-inf, 5, 0], [1, 1, 1]], np.float32)
    assert int(solve(wanted)[1][1]) == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, 0.0])
def test_constant_costs_end(value):
    total(np.zeros((3, 4)), solve(np.full((3, 4), value, np.float32)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_assign(shape):
    i, j = hungarian_algorithm(jnp.zeros(shape))
    assert i.shape == j.shape == (0,)


@pytest.mark.parametrize("shape", [(7, 4, 4), (7, 5, 3)])
def test_vmap_is_a_loop(shape):
    costs = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    i, j = jax.jit(jax.vmap(hungarian_algorithm))(costs)
    for k, cost in enumerate(costs):
        expected = solve(cost)
        np.testing.assert_array_equal(i[k], expected[0])
        np.testing.assert_array_equal(j[k], expected[1])


def test_gradient_of_the_optimal_cost():
    cost = jnp.asarray(np.random.default_rng(4).normal(size=(4, 5)), jnp.float32)

    @jax.jit
    @jax.grad
    def slope(cost):
        i, j = hungarian_algorithm(cost)
        return cost[i, j].sum()

    expected = np.zeros((4, 5))
    i, j = solve(cost)
    expected[i, j] = 1
    np.testing.assert_array_equal(slope(cost), expected)


@pytest.mark.parametrize(
    ("cost", "error", "words"),
    [
        (jnp.ones(3), ValueError, ["cost_matrix", "(n, m)", "float32[3]"]),
        (jnp.ones((2, 3, 3)), ValueError, ["float32[2,3,3]"]),
        (3.0, ValueError, ["3.0"]),
        (np.ones((2, 2), np.complex64), TypeError, ["real", "complex64"]),
        (np.array([["a"]]), TypeError, ["cost_matrix"]),
    ],
)
def test_mistakes_are_named(cost, error, words):
    with pytest.raises(error) as caught:
        hungarian_algorithm(cost)
    for word in ["hungarian_algorithm", *words]:
        assert word in str(caught.value)
