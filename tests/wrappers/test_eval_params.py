"""Averages of the parameters, and eval_params, which finds them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}


def grads(t: int) -> Any:
    return {"w": jnp.array([0.3 * t, -0.1]), "b": jnp.array([np.cos(t)], jnp.float32)}


def train(tx: Any, steps: int, params: Any = PARAMS) -> tuple[Any, Any, list[Any]]:
    state, visited = tx.init(params), []
    for t in range(steps):
        updates, state = jax.jit(tx.update)(grads(t), state, params)
        params = gf.apply_updates(params, updates)
        visited.append(params)
    return params, state, visited


def stacked(visited: list[Any]) -> Any:
    return jax.tree.map(lambda *x: np.stack([np.asarray(v, np.float64) for v in x]), *visited)


def close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-6), actual, expected)


def test_the_moving_average_is_the_weighted_mean_of_the_points_visited() -> None:
    params, state, visited = train(gf.with_param_ema(gf.sgd(0.1), 0.8), 7)
    weights = 0.8 ** np.arange(6, -1, -1.0)
    expected = jax.tree.map(lambda x: np.average(x, axis=0, weights=weights), stacked(visited))
    close(gf.eval_params(state, params), expected)


def test_a_decay_may_follow_a_schedule() -> None:
    schedule = gf.piecewise_constant_schedule(0.5, {2: 1.6})
    params, state, visited = train(gf.with_param_ema(gf.sgd(0.1), schedule), 4)
    weights = np.asarray([0.5 * 0.5 * 0.8 * 0.8, 0.5 * 0.8 * 0.8, 0.2 * 0.8, 0.2])
    expected = jax.tree.map(lambda x: np.average(x, axis=0, weights=weights), stacked(visited))
    close(gf.eval_params(state, params), expected)


@pytest.mark.parametrize(
    ("start", "every", "counted"), [(0, 1, [0, 1, 2, 3, 4, 5]), (2, 3, [2, 5]), (9, 1, [])]
)
def test_swa_is_the_mean_of_the_points_that_count(start: int, every: int, counted: list[int]) -> None:
    params, state, visited = train(gf.with_swa(gf.sgd(0.1), start, every), 6)
    assert int(state.averaged) == len(counted)
    points = stacked([visited[i] for i in counted] or [params])
    close(gf.eval_params(state, params), jax.tree.map(lambda x: x.mean(axis=0), points))


@pytest.mark.parametrize(("window", "every", "counted"), [(3, 1, [4, 5, 6]), (4, 2, [1, 3, 5]), (2, 9, [])])
def test_lawa_is_the_mean_of_the_latest_points(window: int, every: int, counted: list[int]) -> None:
    params, state, visited = train(gf.with_lawa(gf.sgd(0.1), window, every), 7)
    points = stacked([visited[i] for i in counted] or [params])
    close(gf.eval_params(state, params), jax.tree.map(lambda x: x.mean(axis=0), points))


def test_averages_are_found_wherever_they_are_and_other_leaves_stay() -> None:
    averaging = gf.with_swa(gf.sgd(0.1))
    for tx in (
        gf.chain(gf.clip(10.0), averaging),
        gf.apply_if_finite(gf.with_metrics(averaging), 2),
        gf.tunable(averaging),
    ):
        params, state, visited = train(tx, 3)
        close(gf.eval_params(state, params), jax.tree.map(lambda x: x.mean(axis=0), stacked(visited)))
    parts = gf.partition({"w": averaging, "b": gf.with_lawa(gf.sgd(0.1), 1)})
    params, state, visited = train(parts, 3)
    seen = gf.eval_params(state, params)
    np.testing.assert_allclose(seen["w"], stacked(visited)["w"].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(seen["b"], params["b"])
    masked = gf.masked(averaging, gf.paths("w"))
    params, state, visited = train(masked, 3)
    np.testing.assert_array_equal(gf.eval_params(state, params)["b"], params["b"])


def test_without_averages_the_parameters_are_returned_as_they_are() -> None:
    params, state, _ = train(gf.adamw(0.1), 2)
    assert gf.eval_params(state, params) is params


def test_schedule_free_and_lookahead_have_views_too() -> None:
    params, state, _ = train(gf.chain(gf.schedule_free_sgd(0.1)), 4)
    close(gf.eval_params(state, params), gf.schedule_free_eval_params(state, params))
    tx = gf.lookahead(gf.sgd(0.1), 2, 0.5)
    both = gf.LookaheadParams.init_synced(PARAMS)
    state = tx.init(both)
    updates, state = tx.update(grads(1), state, both)
    both = gf.apply_updates(both, updates)
    assert gf.eval_params(state, both) is both.slow


def test_averages_are_in_the_dtype_of_the_parameters_and_kept_in_a_wider_one() -> None:
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    for tx in (gf.with_param_ema(gf.sgd(0.1)), gf.with_swa(gf.sgd(0.1)), gf.with_lawa(gf.sgd(0.1))):
        after, state, _ = train(tx, 2, params)
        assert {x.dtype for x in jax.tree.leaves(gf.eval_params(state, after))} == {jnp.dtype(jnp.bfloat16)}
        assert jnp.dtype(jnp.float32) in {x.dtype for x in jax.tree.leaves(state)}


def test_two_averages_of_one_leaf_and_other_trees_are_refused() -> None:
    params, state, _ = train(gf.with_swa(gf.with_param_ema(gf.sgd(0.1))), 1)
    with pytest.raises(ValueError, match="two averages for the same leaf"):
        gf.eval_params(state, params)
    state = gf.with_swa(gf.sgd(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match=r"eval_params: argument 'params' must be the tree .* at 'b'"):
        gf.eval_params(state, {"w": PARAMS["w"]})
