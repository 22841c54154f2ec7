"""`rate_finder`, `schedule_plot` and `state_plot`, and what the seeds say of chance."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import lab
from gradflow.lab._results._statistics import interval, is_settled

BATCHES = np.linspace(-1, 1, 60, dtype=np.float32).reshape(4, 15)


def quadratic(params, batch):
    return jnp.mean((jnp.broadcast_to(params["w"], batch.shape) - batch) ** 2)


OWN = {"loss_fn": quadratic, "params": {"w": jnp.full((15,), 3.0)}, "batches": BATCHES}


def all_labelled(figure):
    drawn = [axis for axis in figure.axes if axis.axison]
    assert drawn
    return all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn)


def test_the_rate_rises_from_step_to_step(tmp_path):
    result = lab.rate_finder("sgd", **OWN, low=1e-4, high=100.0, steps=60, seeds=2)
    w = np.full(15, 3.0)
    for rate, loss in list(zip(result.learning_rates, result.losses[0], strict=True))[:3]:
        # A batch is a row, whichever it is: far from all of them they are distinguished by the loss.
        losses = [np.mean((w - row) ** 2) for row in BATCHES]
        row = int(np.argmin(np.abs(np.asarray(losses) - loss)))
        np.testing.assert_allclose(loss, losses[row], rtol=1e-5)
        w = w - rate * 2 / 15 * (w - BATCHES[row])
    np.testing.assert_allclose(result.learning_rates[1] / result.learning_rates[0], 1e6 ** (1 / 59))
    # Beyond 15 a step overshoots by more than the distance.
    assert 0.1 < result.suggestion < 15
    assert result.steepest < result.lowest
    assert all_labelled(result.plot(tmp_path / "rates.png"))
    assert f"{result.suggestion:.2g}" in str(result)
    json.loads(result.to_json())


def test_a_loss_that_never_falls_suggests_nothing():
    result = lab.rate_finder("adam", **OWN, low=1e-9, high=1e-8, steps=20, seeds=1)
    assert result.suggestion is None
    assert "never fell" in str(result)
    result.plot()
    wild = lab.rate_finder("sgd", **OWN, low=1e20, high=1e30, steps=20, seeds=1)
    assert wild.suggestion is None
    wild.plot()


def test_a_scheduled_rate_is_replaced():
    tx = gf.chain(gf.clip(1.0), gf.adam(gf.constant_schedule(7.0)))
    assert (
        lab.rate_finder(tx, **OWN, steps=20).losses
        == lab.rate_finder(gf.chain(gf.clip(1.0), gf.adam(3.0)), **OWN, steps=20).losses
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "lbfgs"}, "chooses its learning rate itself"),
        ({"optimizer": "scale(-0.1)"}, "must have one learning_rate; got 0"),
        ({"optimizer": "chain(sgd(1.0), sgd(1.0))"}, "got 2"),
        ({"low": 0.0}, "argument 'low' must be above 0"),
        ({"high": 1e-7}, "below high"),
        ({"steps": 3}, "rate_finder: argument 'steps' must be"),
    ],
)
def test_mistakes_of_rate_finder(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lab.rate_finder(**{"optimizer": "sgd", **OWN, **arguments})


def test_schedules_from_anywhere(tmp_path):
    cosine, linear = gf.cosine_decay_schedule(1.0, 10), gf.linear_schedule(0.0, 1.0, 20)
    result = lab.schedule_plot([cosine, linear, lambda count: 1 / (1 + count)], steps=30)
    assert result.steps == 30
    *names, own = result.curves
    assert names == ["cosine_decay_schedule(1.0, 10)", "linear_schedule(0.0, 1.0, 20)"]
    np.testing.assert_allclose(
        result.curves["linear_schedule(0.0, 1.0, 20)"], [min(1, i / 20) for i in range(30)], rtol=1e-6
    )
    assert result.curves[own][3] == 0.25
    assert all_labelled(result.plot(tmp_path / "schedules.png"))
    assert lab.schedule_plot(cosine).steps == 12
    assert lab.schedule_plot("piecewise_constant_schedule(1.0, {50: 0.1})").steps == 56
    assert list(lab.schedule_plot({"a": cosine}).curves) == ["a"]
    inside = lab.schedule_plot(gf.chain(gf.clip(1.0), gf.adam(cosine, b1=linear)))
    assert list(inside.curves) == [
        "chain.adam.learning_rate = cosine_decay_schedule(1.0, 10)",
        "chain.adam.b1 = linear_schedule(0.0, 1.0, 20)",
    ]
    assert inside.steps == 23


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (gf.adam(1e-3), "must have at least one schedule"),
        (3.0, "must hold functions of the step; got 3.0"),
        ([], "must have at least one schedule"),
    ],
)
def test_mistakes_of_schedule_plot(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lab.schedule_plot(value)


def test_a_training_is_recorded(tmp_path):
    tx = gf.chain(gf.clip_by_global_norm(0.5), gf.adamw(gf.linear_schedule(0.1, 0.0, 8)))
    result = lab.state_plot(tx, **OWN, steps=8)
    rates = result.series["adamw.scale_by_learning_rate.learning_rate"]
    np.testing.assert_allclose(rates, [0.1 * (1 - i / 8) for i in range(8)], rtol=1e-5)
    assert {"loss", "gradient_norm", "update_norm", "clip_by_global_norm.norm"} <= set(result.series)
    ratio = result.ratios["update_norm / gradient_norm"][0]
    np.testing.assert_allclose(ratio, result.series["update_norm"][0] / result.series["gradient_norm"][0])
    assert set(result.histograms) == {"parameters", "mu", "nu"}
    for found in result.histograms.values():
        assert sum(found.counts) + found.zeros + found.not_finite == 15
        assert len(found.edges) == len(found.counts) + 1
    assert all_labelled(result.plot(tmp_path / "state.png"))
    json.loads(result.to_json())


def test_a_history_of_ones_own_loop(tmp_path):
    tx = gf.with_metrics(gf.adam(0.1))
    params = {"w": jnp.ones(3), "v": jnp.zeros(2)}
    state = tx.init(params)
    history = []
    for _ in range(3):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
        updates, state = tx.update(grads, state, params)
        params = gf.apply_updates(params, updates)
        history.append({"loss": loss, **gf.metrics(state)})
    result = lab.state_plot(history, state=state, trees={"parameters": params, "none": {}})
    assert result.series["loss"][0] == 3.0
    assert set(result.histograms) == {"mu", "nu", "parameters"}
    assert result.histograms["mu"].zeros == 2
    assert all_labelled(result.plot(tmp_path / "own.png"))
    gaps = lab.state_plot([{"a": 1.0}, {"b": math.inf}])
    assert math.isnan(gaps.series["b"][0])
    gaps.plot()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "at least one"),
        ([3.0], "a dict of scalars"),
        ([{"a": [1.0, 2.0]}], "must have a scalar 'a'"),
        (3.0, "must be an optimizer, or a list"),
    ],
)
def test_mistakes_of_state_plot(source, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lab.state_plot(source)


def test_intervals_hold_the_median_and_their_level():
    assert interval([1.0, 2.0]) is None
    assert interval([1.0, math.inf, 2.0, 3.0, math.inf]) == (1.0, math.inf)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = interval(rng.normal(size=15).tolist())
        inside += low <= 0 <= high
    assert 175 <= inside <= 200


def test_an_order_is_settled_when_it_is_not_chance():
    low, high = [1.0, 1.1, 0.9, 1.05, 0.95], [2.0, 2.1, 1.9, 2.05, 1.95]
    assert is_settled(low, high)
    assert not is_settled(high, low)
    assert not is_settled(low, low)
    assert not is_settled(low, [0.9, 1.2, 1.0, 0.9, 1.1])
    assert is_settled(low, [math.inf] * 5)
    assert not is_settled([math.inf] * 5, [math.inf] * 5)
    assert not is_settled([1.0], [2.0])
    # The same starts and batches: what all share is not a difference.
    shared = np.asarray([1.0, 5.0, 9.0, 3.0, 7.0])
    assert is_settled(shared.tolist(), (shared + 0.1).tolist())
    rng = np.random.default_rng(1)
    alarms = sum(is_settled(*rng.normal(size=(2, 5)).tolist()) for _ in range(300))
    assert alarms < 0.08 * 300
