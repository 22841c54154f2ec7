"""inject_hyperparams: numbers in the state of one factory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
GRADS = {"w": jnp.array([0.3, -0.1]), "b": jnp.array([2.0])}


def steps(tx: Any, count: int = 3, **extra: Any) -> Any:
    state, history = tx.init(PARAMS), []
    for _ in range(count):
        updates, state = tx.update(GRADS, state, PARAMS, **extra)
        history.append(updates)
    return history, state


def test_numbers_are_those_of_the_plain_factory() -> None:
    plain, _ = steps(gf.adamw(0.1, weight_decay=0.3))
    injected, state = steps(gf.inject_hyperparams(gf.adamw)(0.1, weight_decay=0.3))
    jax.tree.map(np.testing.assert_array_equal, plain, injected)
    assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"}
    assert int(state.count) == 3


def test_a_number_in_the_state_may_be_changed_without_a_second_compilation() -> None:
    tx = gf.inject_hyperparams(gf.sgd)(learning_rate=0.1)
    state = tx.init(PARAMS)
    traced: list[int] = []

    @jax.jit
    def step(state: Any) -> Any:
        traced.append(1)
        return tx.update(GRADS, state, PARAMS)

    _, state = step(state)
    state.hyperparams["learning_rate"] = jnp.float32(0.7)
    updates, state = step(state)
    np.testing.assert_allclose(updates["b"], [-1.4], rtol=1e-6)
    assert len(traced) == 1
    state.hyperparams["learning_rate"] = 0.2
    updates, state = tx.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(updates["b"], [-0.4], rtol=1e-6)
    assert state.hyperparams["learning_rate"].dtype == jnp.float32


def test_schedules_are_asked_for_each_step_from_0() -> None:
    tx = gf.inject_hyperparams(gf.sgd)(learning_rate=lambda count: 1.0 / (count.astype(jnp.float32) + 1))
    history, state = steps(tx)
    np.testing.assert_allclose([float(u["b"][0]) for u in history], [-2.0, -1.0, -2 / 3], rtol=1e-6)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 1 / 3)


class Halve:
    """A stateful schedule: halves its value whenever the loss did not fall."""

    def init(self) -> Any:
        return {"value": jnp.float32(1.0), "last": jnp.float32(jnp.inf)}

    def update(self, state: Any, *, value: Any, **extra: Any) -> Any:
        halved = jnp.where(value < state["last"], state["value"], state["value"] / 2)
        return {"value": halved, "last": jnp.asarray(value, jnp.float32)}

    def __call__(self, state: Any, **extra: Any) -> Any:
        return state["value"]


def test_stateful_schedules_see_the_extra_arguments() -> None:
    assert isinstance(Halve(), gf.StatefulSchedule)
    tx = gf.inject_hyperparams(gf.sgd)(learning_rate=Halve())
    state, rates = tx.init(PARAMS), []
    for loss in (3.0, 2.0, 2.5, 2.6):
        _, state = tx.update(GRADS, state, PARAMS, value=loss)
        rates.append(float(state.hyperparams["learning_rate"]))
    assert rates == [1.0, 1.0, 1.0, 0.5]


def test_a_wrapped_schedule_counts_by_itself() -> None:
    schedule = gf.WrappedSchedule(gf.linear_schedule(0.0, 1.0, 4))
    state = schedule.update(schedule.init())
    np.testing.assert_allclose(schedule(state), 0.25)


def test_a_decay_near_one_stays_one_in_half_precision() -> None:
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = gf.inject_hyperparams(gf.adam)(0.1)
    updates, state = tx.update(params, tx.init(params), params)
    assert state.hyperparams["b2"].dtype == jnp.float32
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
    low = gf.inject_hyperparams(gf.sgd, hyperparam_dtype=jnp.bfloat16)(0.5)
    assert low.init(params).hyperparams["learning_rate"].dtype == jnp.bfloat16


def test_functions_that_return_transformations_are_factories_too() -> None:
    def mine(rate: float, decay: float, kind: str = "plain") -> Any:
        return gf.chain(gf.trace(decay), gf.scale(-rate))

    tx = gf.inject_hyperparams(mine, static_args="decay")(0.1, 0.9)
    history, state = steps(tx, 1)
    assert set(state.hyperparams) == {"rate"}
    np.testing.assert_allclose(history[0]["b"], [-0.2], rtol=1e-6)


def test_it_is_a_value() -> None:
    tx = gf.inject_hyperparams(gf.adam)(0.1)
    assert tx == gf.inject_hyperparams(gf.adam)(learning_rate=0.1)
    assert tx != gf.inject_hyperparams(gf.adam)(learning_rate=0.2)
    assert gf.from_config(gf.to_config(tx)) == tx
    assert tx.expression.line.startswith("injected(adam, {'learning_rate': 0.1")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: gf.inject_hyperparams(gf.adam, static_args="b3"),
            ValueError,
            r"argument 'static_args' must name .*'b2'.*; got \['b3'\]",
        ),
        (lambda: gf.inject_hyperparams(gf.adam(0.1)), TypeError, "must be a factory such as adam; got"),
        (
            lambda: gf.inject_hyperparams(gf.adam)(float("nan")),
            ValueError,
            "adam: argument 'learning_rate' must be",
        ),
        (lambda: gf.inject_hyperparams(gf.adam)(), TypeError, "missing a required argument"),
    ],
)
def test_mistakes(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_state_of_other_numbers_is_refused() -> None:
    state = gf.inject_hyperparams(gf.sgd)(0.1).init(PARAMS)
    with pytest.raises((ValueError, TypeError), match="hyper-parameters learning_rate, b1"):
        gf.inject_hyperparams(gf.adam)(0.1).update(GRADS, state, PARAMS)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_keys_pass_unchanged(make_key: Any) -> None:
    def noisy(key: jax.Array, scale: Any) -> Any:
        return gf.chain(gf.scale(scale), gf.add_noise(0.1, 0.5, key))

    key = make_key(17)
    injected, state = steps(gf.inject_hyperparams(noisy)(key=key, scale=1e-3))
    plain, _ = steps(noisy(key, 1e-3))
    jax.tree.map(np.testing.assert_array_equal, plain, injected)
    kept = state.hyperparams["key"]
    assert kept.dtype == key.dtype
    assert bool(jnp.all(kept == key))
    assert kept is not key
