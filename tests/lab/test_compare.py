"""`compare`: its numbers against a plain re-run, its own problems, and its mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow
from gradflow import lab
from gradflow.lab._experiments._plan import prepare
from gradflow.lab._experiments._program import batch_order, probe_loss, probe_of
from gradflow.lab._tasks._catalog import TASKS, task_named

small = functools.partial(lab.compare, progress=False, seeds=2, steps=6, learning_rates=[1e-2, 1e-1])


def quadratic(params, batch):
    return jnp.mean((jnp.broadcast_to(params["w"], batch.shape) - batch) ** 2)


def start(key):
    return {"w": jax.random.normal(key, (3,))}


BATCHES = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
MANY = np.linspace(-1, 1, 60, dtype=np.float32).reshape(2, 30)


def own(optimizers, **arguments):
    arguments = {"loss_fn": quadratic, "params": start, "batches": BATCHES, **arguments}
    return small(optimizers, **arguments)


def test_the_numbers_are_those_of_a_plain_run():
    entry = small("adam", task="digits", target=2.0)["adam"]
    task = task_named("digits")
    rate, seed = 1, 1
    tx = gradflow.adam(entry.learning_rates[rate])
    params = task.init(jax.random.key(seed))
    state = tx.init(params)
    losses = [float(probe_loss(task, params, probe_of(task)))]
    grad, update = jax.jit(jax.grad(task.loss_fn)), jax.jit(tx.update)
    for indices in batch_order(task, seed, 6):
        batch = jax.tree.map(lambda leaf, i=indices: leaf[i], task.train)
        updates, state = update(grad(params, batch), state, params)
        params = gradflow.apply_updates(params, updates)
        losses.append(float(probe_loss(task, params, probe_of(task))))
    np.testing.assert_allclose(entry.losses[rate][seed], losses, rtol=1e-5)
    np.testing.assert_allclose(entry.final_loss[rate][seed], losses[-1], rtol=1e-5)
    np.testing.assert_allclose(entry.score[rate][seed], float(task.score_fn(params, task.test)), atol=1e-6)
    assert entry.steps_to_target[rate][seed] == next(i for i, loss in enumerate(losses) if loss <= 2.0)
    assert not entry.diverged[rate][seed]


def test_seeds_differ_every_optimizer_starts_alike_and_states_are_weighed():
    result = own(["sgd", "adam"], params=lambda key: {"w": jax.random.normal(key, (30,))}, batches=MANY)
    sgd, adam = result["sgd"], result["adam"]
    assert sgd.losses[0][0][0] == adam.losses[0][0][0] == adam.losses[1][0][0]
    assert sgd.losses[0][0][0] != sgd.losses[0][1][0]
    # No moment, or two of four bytes; and at most four step counts.
    assert sgd.state_bytes_per_parameter == pytest.approx(0, abs=16 / 30)
    assert adam.state_bytes_per_parameter == pytest.approx(8, abs=16 / 30)


def test_the_loss_is_looked_at_after_the_last_step_whatever_their_number():
    result = own("sgd", steps=203)
    assert result.evaluated_at[0] == 0
    assert result.evaluated_at[-2:] == [201, 203]
    assert len(result["sgd"].losses[0][0]) == len(result.evaluated_at)


def test_the_final_loss_does_not_depend_on_when_the_loss_is_looked_at():
    def plain(seed):
        w = np.asarray(start(jax.random.key(seed))["w"])
        for i in batch_order(prepare("sgd", None, quadratic, start, BATCHES).task, seed, 203):
            w = w - 0.1 * 2 / 3 * (w - BATCHES[i])
        return np.mean((w - BATCHES) ** 2)

    result = own("sgd", steps=203, learning_rates=[0.1])
    np.testing.assert_allclose(result["sgd"].final_loss[0], [plain(0), plain(1)], rtol=1e-5)


def test_a_diverged_run_is_shown_and_ranked_last():
    result = own({"wild": "sgd", "calm": gradflow.scale(-0.1)}, steps=60, learning_rates=[1e3], target=0.5)
    wild = result["wild"]
    assert wild.diverged == [[True, True]]
    assert wild.steps_to_target == [[None, None]]
    assert result.entries[-1] is wild
    line = next(line for line in result.table().splitlines() if "wild" in line)
    assert "diverged" in line
    assert "2 of 2" in line


def test_a_run_that_ends_above_its_start_has_diverged_and_the_best_rate_avoids_it():
    result = own("sgd", steps=3, learning_rates=[0.1, 4.0], params={"w": jnp.full((3,), 2.0)})
    entry = result["sgd"]
    assert entry.diverged == [[False, False], [True, True]]
    assert np.isfinite(entry.final_loss).all()
    assert entry.best_rate == 0.1


def test_many_runs_are_traced_as_often_as_one():
    traces = []

    def counted(params, batch):
        traces.append(None)
        return quadratic(params, batch)

    def count(**arguments):
        traces.clear()
        own("sgd", loss_fn=counted, **arguments)
        return len(traces)

    assert count(steps=3, seeds=1) == count(steps=40, seeds=4, learning_rates=[1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize(
    "batches",
    [
        [BATCHES[0], BATCHES[1]],
        iter([BATCHES[0], BATCHES[1]]),
        {"x": BATCHES},
    ],
    ids=["list", "iterator", "tree"],
)
def test_own_batches_come_as_a_list_an_iterator_or_a_tree(batches):
    def loss_fn(params, batch):
        return quadratic(params, batch["x"] if isinstance(batch, dict) else batch)

    result = own("adam", batches=batches, loss_fn=loss_fn, steps=30)
    assert result["adam"].rank_key[1] < result["adam"].losses[0][0][0]
    assert result["adam"].score is None
    assert result.target is None


def test_a_loss_without_batches():
    result = own("sgd", loss_fn=lambda params: jnp.sum(params["w"] ** 2), batches=None, steps=50)
    assert max(result["sgd"].final_loss[1]) < 1e-6


def test_numpy_and_weakly_typed_parameters():
    result = own(
        "adam", params={"a": np.ones(3, np.float32), "b": 1.0}, loss_fn=lambda p, _: jnp.sum(p["a"]) * p["b"]
    )
    assert not any(result["adam"].diverged[0])


def test_a_task_of_ones_own():
    task = lab.Task(
        "mine", start, quadratic, BATCHES, batch_size=2, target=0.5, test=BATCHES,
        score_fn=lambda p, batch: -quadratic(p, batch), score_name="fit", steps=4,
    )  # fmt: skip
    result = small("sgd", task=task, steps=None)
    assert (result.steps, result.target, result.score_name) == (4, 0.5, "fit")
    assert "fit" in result.table()


def test_optimizers_as_values_and_functions():
    clipped = gradflow.chain(gradflow.clip_by_global_norm(1.0), gradflow.adam(1e-3))
    result = own({
        "named": "adam",
        "swept": gradflow.adam(7.0),
        "inside a chain": clipped,
        "function": lambda learning_rate: gradflow.adam(learning_rate, b1=0.8),
        "fixed": gradflow.scale(-0.1),
        "scheduled": gradflow.adam(gradflow.constant_schedule(0.1)),
    })  # fmt: skip
    assert result["swept"].losses == result["named"].losses
    assert result["inside a chain"].learning_rates == [1e-2, 1e-1]
    assert result["inside a chain"].losses != result["named"].losses
    assert result["function"].losses != result["named"].losses
    assert result["fixed"].learning_rates == result["scheduled"].learning_rates == [None]
    assert result["fixed"].expression == "scale(-0.1)"
    assert result["swept"].expression == "adam(0.1)"


def test_another_librarys_pair_takes_part():
    def plain(learning_rate):
        def update(grads, state, params=None):
            return jax.tree.map(lambda g: -learning_rate * g, grads), state

        return gradflow.GradientTransformation(lambda params: (), update)

    result = own({"plain": plain, "sgd": "sgd"})
    np.testing.assert_allclose(result["plain"].losses, result["sgd"].losses, rtol=1e-6)


def test_a_list_of_transformations_is_named_by_their_factories():
    assert {entry.name for entry in own([gradflow.adam(1e-3), "sgd"]).entries} == {"adam", "sgd"}


def test_functions_are_named_by_their_names_and_numpy_numbers_are_numbers():
    plan = prepare([gradflow.adam, gradflow.sgd(np.float32(1e-3))], seeds=np.int64(3))
    assert [candidate.name for candidate in plan.candidates] == ["adam", "sgd"]
    assert 1e-3 in plan.candidates[1].rates
    assert 0.1 not in plan.candidates[1].rates
    assert plan.seeds == (0, 1, 2)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_trains(name):
    steps = 5 if name == "transformer" else 20
    result = small("adam", task=name, steps=steps, learning_rates=[1e-2], seeds=1)
    entry = result["adam"]
    assert entry.final_loss[0][0] < entry.losses[0][0][0]
    assert np.isfinite(entry.score[0][0])


def test_default_rates_surround_the_usual_one():
    grids = {candidate.name: candidate.rates for candidate in prepare().candidates}
    assert grids["adam"] == (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    assert all(len(rates) == 6 and rates == tuple(sorted(rates)) for rates in grids.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": "adm"}, r"no optimizer is called 'adm'\. Did you mean 'adam"),
        ({"optimizers": "xyzzy"}, r"'xyzzy'. There are .*adam"),
        ({"optimizers": "scale"}, r"no optimizer is called 'scale'"),
        ({"optimizers": []}, "compare: argument 'optimizers' must have at least one"),
        ({"optimizers": ["adam", "adam"]}, "must have a different name for each; got adam twice"),
        ({"task": "digit"}, r"no task is called 'digit'\. Did you mean 'digits"),
        ({"learning_rates": [1e-3, -1.0]}, "positive and finite.*-1"),
        ({"learning_rates": [float("nan")]}, "positive and finite"),
        ({"learning_rates": []}, "got none"),
        ({"steps": 0}, "compare: argument 'steps' must be a whole number >= 1 or None; got 0"),
        ({"steps": 1.5}, "argument 'steps' must be"),
        ({"seeds": 0}, "argument 'seeds' must be at least one seed; got 0"),
        ({"seeds": [1, 1]}, "different"),
        ({"target": float("nan")}, "finite"),
        ({"loss_fn": quadratic, "params": start, "batches": []}, "must have at least one batch"),
        ({"loss_fn": quadratic, "params": start, "batches": (BATCHES, BATCHES[:2])}, "leading axis"),
    ],
)  # fmt: skip
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        lab.compare(**{"progress": False, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": 3}, "'optimizers' must be names"),
        ({"optimizers": {"a": 3}}, "must hold names, transformations, .* got 3 for 'a'"),
        ({"task": 3}, "'task' must be a name or a Task"),
        ({"task": "digits", "loss_fn": quadratic}, "argument 'task' must be left out"),
        ({"loss_fn": quadratic}, "both loss_fn and params"),
        ({"loss_fn": 3, "params": start}, "'loss_fn' must be a function"),
        ({"loss_fn": lambda p, b: p["w"], "params": start, "batches": BATCHES}, "one number"),
        (
            {
                "optimizers": {"a": lambda learning_rate: 3},
                "loss_fn": quadratic,
                "params": start,
                "batches": BATCHES,
            },
            "the optimizer 'a' must be a transformation; got 3",
        ),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lab.compare(**{"progress": False, **arguments})
