"""tunable: hyper-parameters as data that may be read, changed, swept and differentiated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5])}
GRADS = {"w": jnp.array([0.3, -0.1, 4.0]), "b": jnp.array([2.0])}


def clipped(rate: Any = 0.1) -> Any:
    return gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(rate))


def test_every_number_has_a_short_name() -> None:
    state = gf.tunable(clipped()).init(PARAMS)
    assert gf.hyperparams(state) == {
        "clip_by_global_norm.max_norm": 1.0,
        "adamw.learning_rate": np.float32(0.1),
        "adamw.b1": np.float32(0.9),
        "adamw.b2": np.float32(0.999),
        "adamw.eps": np.float32(1e-8),
        "adamw.eps_root": 0.0,
        "adamw.weight_decay": np.float32(1e-4),
    }
    two = gf.partition({"w": gf.sgd(0.1), "b": gf.sgd(0.2)})
    assert set(gf.hyperparams(gf.tunable(two).init(PARAMS))) == {
        "w.sgd.learning_rate", "b.sgd.learning_rate",
    }  # fmt: skip


def test_changing_one_compiles_nothing_and_is_the_optimizer_with_that_number() -> None:
    tx = gf.tunable(clipped())
    state, traced = tx.init(PARAMS), []

    @jax.jit
    def step(state: Any) -> Any:
        traced.append(1)
        return tx.update(GRADS, state, PARAMS)

    step(state)
    for rate in (0.3, jnp.float32(0.01), np.float64(2.0)):
        changed = gf.set_hyperparams(state, {"learning_rate": rate, "max_norm": 7})
        updates, after = step(changed)
        plain = gf.chain(gf.clip_by_global_norm(7.0), gf.adamw(float(rate)))
        expected, _ = jax.jit(plain.update)(GRADS, plain.init(PARAMS), PARAMS)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        np.testing.assert_allclose(gf.hyperparams(after)["adamw.learning_rate"], rate, rtol=1e-6)
    assert len(traced) == 1


def test_schedules_are_read_as_they_were_at_the_last_step_even_behind_branches() -> None:
    rate = gf.linear_schedule(1.0, 0.0, 10)
    for tx, expected in (
        (clipped(rate), [1.0, 0.9, 0.8, 0.7]),
        (gf.MultiSteps(clipped(rate), 2), [1.0, 1.0, 1.0, 0.9]),
        (gf.apply_if_finite(gf.MultiSteps(clipped(rate), 2), 1), [1.0, 1.0, 1.0, 0.9]),
        (gf.with_metrics(gf.apply_if_finite(clipped(rate), 1)), [1.0, 0.9, 0.8, 0.7]),
    ):
        tuned = gf.tunable(tx)
        state, seen = tuned.init(PARAMS), []
        for _ in range(4):
            _, state = jax.jit(tuned.update)(GRADS, state, PARAMS)
            seen.append(float(gf.hyperparams(state)["adamw.learning_rate"]))
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_sweep_is_a_vmap() -> None:
    tx = gf.tunable(gf.sgd(0.1, momentum=0.9))
    rates = jnp.array([0.1, 0.2, 0.4])
    states = jax.vmap(lambda _: tx.init(PARAMS))(rates)
    states = gf.set_hyperparams(states, {"learning_rate": rates})
    updates, _ = jax.vmap(lambda s: tx.update(GRADS, s, PARAMS))(states)
    np.testing.assert_allclose(updates["b"], -2.0 * rates[:, None], rtol=1e-6)


def test_gradients_reach_the_numbers() -> None:
    tx = gf.tunable(gf.sgd(0.1))

    def after(rate: Any) -> Any:
        state = gf.set_hyperparams(tx.init(PARAMS), {"sgd.learning_rate": rate})
        updates, _ = tx.update(GRADS, state, PARAMS)
        return gf.apply_updates(PARAMS, updates)["b"][0]

    np.testing.assert_allclose(jax.grad(after)(0.1), -2.0)


def test_it_reaches_what_inject_hyperparams_keeps() -> None:
    tx = gf.chain(
        gf.inject_hyperparams(gf.sgd)(0.1), gf.inject_hyperparams(gf.trace)(gf.linear_schedule(0, 1, 9))
    )
    state = gf.set_hyperparams(tx.init(PARAMS), {"learning_rate": 0.5})
    assert {n: float(v) for n, v in gf.hyperparams(state).items()} == {"learning_rate": 0.5, "decay": 0.0}
    with pytest.raises(ValueError, match="got 'decay', which is driven by a schedule"):
        gf.set_hyperparams(state, {"decay": 0.5})


def test_numbers_beside_wide_parameters_are_wide() -> None:
    with jax.enable_x64(True):
        params = {"w": jnp.ones(2, jnp.float64)}
        tx = gf.tunable(gf.sgd(0.1))
        updates, state = tx.update(params, tx.init(params), params)
        assert gf.hyperparams(state)["sgd.learning_rate"].dtype == jnp.float64
        np.testing.assert_array_equal(updates["w"], -0.1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"adamw.rate": 1.0},
            ValueError,
            "no hyper-parameter has the address 'adamw.rate'.*learning_rate",
        ),
        ({"eps": -1.0}, ValueError, "'adamw.eps' must be a number >= 0"),
        ({"b2": 1.0}, ValueError, r"'adamw.b2' must be a number in \[0, 1\)"),
        ({"b2": "high"}, TypeError, "'adamw.b2' must be"),
        ({"b2": jnp.ones(3)}, ValueError, r"the shape in this state, \(\); got \(3,\)"),
        ({"b2": 0.5, "adamw.b2": 0.6}, ValueError, "must name 'adamw.b2' once; got it twice"),
        ({"step_size": 0.5}, ValueError, "ambiguous: it is the end of scale"),
    ],
)
def test_mistakes(changes: Any, error: Any, words: str) -> None:
    state = gf.tunable(gf.chain(gf.scale(1.0), gf.scale(2.0), gf.adamw(0.1))).init(PARAMS)
    with pytest.raises(error, match=words):
        gf.set_hyperparams(state, changes)


def test_states_that_keep_no_numbers() -> None:
    state = gf.adam(0.1).init(PARAMS)
    for call in (lambda: gf.hyperparams(state), lambda: gf.set_hyperparams(state, {"b1": 0.1})):
        with pytest.raises(ValueError, match=r"wrap the transformation in tunable"):
            call()
    scheduled = gf.tunable(gf.sgd(gf.constant_schedule(0.1))).init(PARAMS)
    with pytest.raises(ValueError, match="is driven by a schedule"):
        gf.set_hyperparams(scheduled, {"learning_rate": 0.1})
    with pytest.raises((TypeError, ValueError), match=r"hyper-parameters sgd\.learning_rate"):
        gf.tunable(gf.sgd(0.1)).update(GRADS, scheduled, PARAMS)
