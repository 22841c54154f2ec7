"""MultiSteps and apply_every: many small batches, one step."""

import functools
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.support import assert_close, run

import gradflow as gf

PARAMS = {"w": jnp.arange(4.0), "b": jnp.ones(2)}


def gradients(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), PARAMS) for _ in range(count)
    ]


def mean(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *g: jnp.mean(jnp.stack(g), axis=0), *trees)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("use_mean", [True, False])
def test_a_round_is_one_step_on_the_mean_or_sum(k: int, use_mean: bool) -> None:
    grads = gradients(2 * k)
    inner = gf.adamw(0.1)
    tx = gf.MultiSteps(inner, k, use_grad_mean=use_mean)
    history, params, state = run(tx, PARAMS, grads)
    rounds = [mean(grads[i * k : (i + 1) * k]) for i in range(2)]
    if not use_mean:
        rounds = [jax.tree.map(lambda g: k * g, r) for r in rounds]
    expected, expected_params, _ = run(inner, PARAMS, rounds)
    for i, updates in enumerate(history):
        if i % k == k - 1:
            assert_close(updates, expected[i // k], rtol=1e-5)
        else:
            assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    assert_close(params, expected_params)
    assert int(state.gradient_step) == 2
    assert bool(tx.has_updated(state))


def test_the_length_of_a_round_may_follow_the_steps_taken() -> None:
    tx = gf.MultiSteps(gf.scale(1.0), lambda step: jnp.where(step == 0, 1, 3))
    history, _, _ = run(tx, PARAMS, gradients(7))
    stepped = [bool(np.any(u["w"] != 0)) for u in history]
    assert stepped == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    "skip", [gf.skip_not_finite, functools.partial(gf.skip_large_updates, max_squared_norm=100.0)]
)
def test_a_skipped_gradient_does_not_count(skip: Any) -> None:
    good = gradients(2)
    bad = {**good[0], "w": jnp.asarray([jnp.nan, 0.0, 1e10, 0.0])}
    tx = gf.MultiSteps(gf.scale(1.0), 2, should_skip_update_fn=skip)
    history, _, state = run(tx, PARAMS, [bad, good[0], bad, good[1], bad])
    assert_close(history[3], mean(good))
    for i in (0, 1, 2, 4):
        assert all(np.all(u == 0) for u in jax.tree.leaves(history[i]))
    assert bool(state.skip_state["should_skip"])


def test_in_a_chain_with_extra_arguments_reports_and_scan() -> None:
    @gf.transformation(reports=("value",))
    def uses_value() -> Any:
        def update(updates: Any, state: gf.EmptyState, params: Any = None, *, value: Any) -> Any:
            gf.report("value", value)
            return jax.tree.map(lambda u: u * value, updates), state

        return gf.init_empty_state, update

    tx = gf.with_metrics(gf.chain(gf.MultiSteps(uses_value(), 2), gf.scale(-1.0)))
    grads = gradients(4)

    def body(state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, PARAMS, value=2.0)
        return state, (updates, gf.metrics(state)["MultiSteps.uses_value.value"])

    _, (updates, seen) = jax.lax.scan(body, tx.init(PARAMS), jax.tree.map(lambda *g: jnp.stack(g), *grads))
    np.testing.assert_array_equal(np.isnan(seen), [True, False, True, False])
    last = jax.tree.map(lambda u: u[3], updates)
    assert_close(last, jax.tree.map(lambda g: -2.0 * g, mean(grads[2:])), rtol=1e-5)


def test_half_precision_gradients_add_up_in_float32() -> None:
    params = {"w": jnp.zeros(1, jnp.bfloat16)}
    tx = gf.MultiSteps(gf.scale(1.0), 256)
    state = tx.init(params)
    step = jax.jit(tx.update)
    for _ in range(256):
        updates, state = step({"w": jnp.full(1, 1.0, jnp.bfloat16)}, state, params)
    np.testing.assert_array_equal(np.asarray(updates["w"], np.float32), 1.0)


def test_it_is_a_value_with_methods() -> None:
    tx = gf.MultiSteps(gf.adam(0.1), 4)
    assert tx == gf.MultiSteps(gf.adam(0.1), 4)
    assert tx.gradient_transformation() is tx
    assert tx.inner_opt == gf.adam(0.1)
    assert gf.replace(tx, {"learning_rate": 0.2}) == gf.MultiSteps(gf.adam(0.2), 4)


@pytest.mark.parametrize(
    ("k", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_wrong_lengths(k: Any, error: type) -> None:
    with pytest.raises(error, match="MultiSteps: argument 'every_k_schedule' must be"):
        gf.MultiSteps(gf.scale(1.0), k)


@pytest.mark.parametrize("k", [1, 3])
def test_apply_every_lets_sums_out(k: int) -> None:
    grads = gradients(6)
    history, _, _ = run(gf.apply_every(k), PARAMS, grads)
    for i, updates in enumerate(history):
        if i % k == k - 1:
            round_ = grads[i - k + 1 : i + 1]
            assert_close(updates, jax.tree.map(lambda *g: jnp.sum(jnp.stack(g), axis=0), *round_))
        else:
            assert all(np.all(u == 0) for u in jax.tree.leaves(updates))


def test_a_class_and_whole_floats() -> None:
    tx = gf.MultiSteps(gf.sgd(0.1), every_k_schedule=8 / 2)
    assert tx == gf.MultiSteps(gf.sgd(0.1), 4)
    assert repr(tx) == "MultiSteps(sgd(0.1), 4)"
    assert isinstance(tx, gf.MultiSteps)
    assert isinstance(pickle.loads(pickle.dumps(tx)), gf.MultiSteps)
    assert isinstance(gf.from_config(gf.to_config(tx)), gf.MultiSteps)
    assert not isinstance(gf.sgd(0.1), gf.MultiSteps)
    assert isinstance(gf.MultiSteps, type)
    assert next(iter(inspect.signature(gf.MultiSteps).parameters)) == "opt"
    with pytest.raises(TypeError, match="argument 'every_k_schedule' must be a whole number >= 1"):
        gf.MultiSteps(gf.sgd(0.1), 3.5)
