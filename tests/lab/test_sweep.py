"""`sweep`: its numbers against plain runs, chunks, resumption, halving, and its mistakes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import lab
from gradflow.lab._experiments import _sweep_run
from gradflow.lab._experiments._program import batch_order
from gradflow.lab._experiments._sweep import _rungs, plan_sweep

BATCHES = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def quadratic(params, batch):
    return jnp.mean((jnp.broadcast_to(params["w"], batch.shape) - batch) ** 2)


def start(key):
    return {"w": 2 + jax.random.normal(key, (3,))}


OWN = {"loss_fn": quadratic, "params": start, "batches": BATCHES, "progress": False}
sweep = functools.partial(lab.sweep, **OWN, steps=12)
TX = gf.chain(gf.clip_by_global_norm(1.0), gf.adam(1e-3))


def by_values(result):
    return {tuple(trial.values.values()): trial for trial in result.trials}


def plain_loss(tx, seed, steps):
    params = start(jax.random.key(seed))
    state = tx.init(params)
    task = plan_sweep(tx, {"b1": [0.9]}, None, quadratic, start, BATCHES).setting.task
    for i in batch_order(task, seed, steps):
        grads = jax.grad(quadratic)(params, jnp.asarray(BATCHES[i]))
        updates, state = tx.update(grads, state, params)
        params = gf.apply_updates(params, updates)
    return np.mean([quadratic(params, jnp.asarray(batch)) for batch in BATCHES])


def test_a_grid_of_several_hyper_parameters_is_the_plain_runs():
    result = sweep(TX, {"max_norm": [0.1, 10.0], "adam.b1": [0.0, 0.9], "learning_rate": [0.1]}, seeds=2)
    assert len(result.trials) == 4
    for (norm, b1, rate), trial in by_values(result).items():
        tx = gf.chain(gf.clip_by_global_norm(norm), gf.adam(rate, b1=b1))
        wanted = [plain_loss(tx, seed, 12) for seed in (0, 1)]
        np.testing.assert_allclose([run[-1] for run in trial.losses], wanted, rtol=2e-5)
    losses = [trial.final_loss for trial in result.trials]
    assert losses == sorted(losses)
    best = result.best.values
    wanted = gf.replace(TX, {"max_norm": best["max_norm"], "b1": best["adam.b1"], "learning_rate": 0.1})
    assert lab.parse(result.best_expression) == wanted


def test_numbers_share_a_program_and_flags_have_their_own():
    traces = []

    def counted(params, batch):
        traces.append(None)
        return quadratic(params, batch)

    def count(space):
        traces.clear()
        sweep(TX, space, loss_fn=counted)
        return len(traces)

    once = count({"b1": [0.9]})
    assert count({"b1": lab.Range(0.5, 0.99, "decay", 9), "learning_rate": [0.1, 0.2]}) == once
    assert once < count({"nesterov": [False, True]}) <= 2 * once


def test_whole_stages_and_schedules_are_swept_too():
    schedule = gf.linear_schedule(0.1, 0.0, 12)
    result = sweep(
        TX, {"learning_rate": [0.1, schedule], "clip_by_global_norm": [gf.identity(), gf.clip(0.5)]}
    )
    assert len(result.trials) == 4
    assert {trial.values["learning_rate"] for trial in result.trials} == {0.1, repr(schedule)}
    json.loads(result.to_json())


def test_a_sweep_that_does_not_fit_is_run_in_chunks(monkeypatch):
    widths = []
    original = _sweep_run.SweepRun._run_chunk
    monkeypatch.setattr(
        _sweep_run.SweepRun, "_run_chunk",
        lambda self, chunk, width, *rest: (widths.append(width), original(self, chunk, width, *rest))[1],
    )  # fmt: skip
    space = {"learning_rate": lab.Range(1e-3, 1.0, points=7)}
    whole = sweep(TX, space)
    assert widths == [7]
    parts = sweep(TX, space, memory=1350)
    assert len(widths) > 2
    assert max(widths[1:]) < 7
    assert by_values(parts).keys() == by_values(whole).keys()
    for values, trial in by_values(whole).items():
        np.testing.assert_allclose(by_values(parts)[values].losses, trial.losses, rtol=1e-6)
    assert len(sweep(TX, space, memory=1).trials) == 7  # one by one, though not even one fits


def test_a_device_without_room_gets_fewer_at_once(monkeypatch):
    original = _sweep_run.SweepRun._run_chunk

    def full(self, chunk, width, *rest):
        if width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(self, chunk, width, *rest)

    monkeypatch.setattr(_sweep_run.SweepRun, "_run_chunk", full)
    assert len(sweep(TX, {"b1": [0.1, 0.2, 0.3, 0.4, 0.5]}).trials) == 5


SPACE = {"learning_rate": lab.Range(1e-3, 1.0, points=6)}


@pytest.mark.parametrize("method", ["grid", "random", "halving"])
def test_an_interrupted_sweep_goes_on_where_it_stopped(method, tmp_path, monkeypatch):
    file = tmp_path / "deep" / "sweep.jsonl"
    call = functools.partial(sweep, TX, SPACE, method=method, memory=1, steps=27)
    trials = {} if method == "grid" else {"trials": 9}
    whole = call(**trials)
    chunks = []
    original = _sweep_run.SweepRun._run_chunk

    def interrupted(self, chunk, *rest):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(chunk)
        return original(self, chunk, *rest)

    monkeypatch.setattr(_sweep_run.SweepRun, "_run_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(file=file, **trials)
    monkeypatch.setattr(_sweep_run.SweepRun, "_run_chunk", original)
    part = lab.SweepResult.load(file)
    assert 0 < len(part.trials) < len(whole.trials) or method == "halving"
    with file.open("a") as stream:
        stream.write('{"index": 0, "val')  # the power failed
    resumed = call(file=file, **trials)
    assert [trial.values for trial in resumed.trials] == [trial.values for trial in whole.trials]
    for a, b in zip(resumed.trials, whole.trials, strict=True):
        assert a.steps == b.steps
        np.testing.assert_allclose(a.losses, b.losses, rtol=1e-5)
    monkeypatch.setattr(_sweep_run.SweepRun, "_run_chunk", None)  # nothing is left to run
    again = call(file=file, **trials)
    assert again == resumed == lab.SweepResult.load(file)


def test_an_interruption_within_a_chunk_keeps_the_curves_so_far(tmp_path, monkeypatch):
    file = tmp_path / "sweep.jsonl"
    plan = plan_sweep(TX, SPACE, None, quadratic, start, BATCHES, steps=12)
    original = _sweep_run._Program.compiled

    def compiled(self, *arguments):
        program, calls = original(self, *arguments), []

        def call(*operands):
            calls.append(None)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return program(*operands)

        return call

    monkeypatch.setattr(_sweep_run._Program, "compiled", compiled)
    monkeypatch.setattr(_sweep_run, "needed_bytes", lambda program: 0)
    with pytest.raises(KeyboardInterrupt):
        plan.run(plan.open_log(file), None, progress=False)
    part = lab.SweepResult.load(file)
    assert {trial.steps for trial in part.trials} == {4}
    assert {len(trial.losses[0]) for trial in part.trials} == {5}
    assert "4" in part.table()
    monkeypatch.undo()
    assert {trial.steps for trial in sweep(TX, SPACE, file=file).trials} == {12}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seeds": 2}, "seeds"),
        ({"steps": 13}, "steps"),
        ({"optimizer": "adam(0.2)"}, "expression"),
        ({"space": {"learning_rate": [0.1]}}, "space"),
        ({"params": {"w": jnp.zeros(3)}}, "first losses"),
    ],
)
def test_the_file_of_another_sweep_is_refused(change, what, tmp_path):
    file = tmp_path / "sweep.jsonl"
    first = {"optimizer": "adam(0.1)", "space": {"learning_rate": [0.1, 0.2]}, "file": file}
    sweep(**first)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"holds another sweep \({what}: "):
        sweep(**{**first, **change})
    assert file.read_bytes() == before


def test_a_file_that_is_no_sweep_is_left_alone(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("my notes\n")
    with pytest.raises(ValueError, match="must be the file of a sweep"):
        sweep(TX, SPACE, file=file)
    assert file.read_text() == "my notes\n"


def test_halving_lets_the_best_go_on_from_where_they_are():
    space = {"learning_rate": lab.Range(1e-4, 1.0)}
    result = sweep(gf.sgd(0.1), space, method="halving", trials=9, steps=27)
    assert sorted(trial.steps for trial in result.trials) == [3] * 6 + [9] * 2 + [27]
    full = sweep(gf.sgd(0.1), space, method="random", trials=9, steps=27)
    assert {tuple(t.values.values()) for t in full.trials} == set(by_values(result))
    for values, trial in by_values(result).items():
        np.testing.assert_allclose(
            trial.losses[0], by_values(full)[values].losses[0][: trial.steps + 1], rtol=1e-5
        )
    at_three = sorted(by_values(full).values(), key=lambda trial: trial.losses[0][3])[:3]
    assert {t.index for t in at_three} == {t.index for t in result.trials if t.steps > 3}


def test_rungs():
    at = list(range(101))
    assert _rungs(27, at, 3) == [(4, 9), (12, 3), (34, 1), (100, 1)]
    assert _rungs(1, at, 3) == [(100, 1)]
    assert _rungs(9, [0, 1, 2], 3) == [(1, 1), (2, 1)]


def test_a_diverged_trial_is_last_and_shown(tmp_path):
    result = sweep("sgd(0.1)", {"learning_rate": [0.1, 1e30]}, steps=30)
    assert result.trials[-1].values == {"learning_rate": 1e30}
    assert all(result.trials[-1].diverged)
    assert "1 of 2 trials diverged" in str(result)
    assert json.loads(result.to_json())["trials"][-1]["final_loss"] is None
    result.plot(tmp_path / "sweep.png")


def test_averages_are_what_is_looked_at():
    rate = 0.3
    result = sweep(gf.schedule_free_sgd(rate), {"learning_rate": [rate]}, steps=5)
    tx = gf.schedule_free_sgd(rate)
    params = start(jax.random.key(0))
    state = tx.init(params)
    task = plan_sweep(tx, {"learning_rate": [rate]}, None, quadratic, start, BATCHES).setting.task
    for i in batch_order(task, 0, 5):
        updates, state = tx.update(jax.grad(quadratic)(params, jnp.asarray(BATCHES[i])), state, params)
        params = gf.apply_updates(params, updates)
    average = gf.eval_params(state, params)
    wanted = np.mean([quadratic(average, jnp.asarray(batch)) for batch in BATCHES])
    np.testing.assert_allclose(result.best.final_loss, wanted, rtol=1e-5)


def test_ranking_by_score():
    task = lab.Task(
        "mine", start, quadratic, BATCHES, batch_size=2, test=BATCHES, steps=4,
        score_fn=lambda p, batch: jnp.sum(p["w"]),
    )  # fmt: skip
    result = lab.sweep("sgd(0.1)", {"learning_rate": [0.01, 0.1]}, task=task, rank_by="score", progress=False)
    assert [t.values["learning_rate"] for t in result.trials] == [0.01, 0.1]
    assert result.trials[0].final_score > result.trials[1].final_score


@pytest.mark.parametrize(
    ("space", "method"),
    [
        ({"learning_rate": lab.Range(1e-3, 1.0, points=3), "b1": [0.0, 0.9]}, "grid"),
        ({"learning_rate": lab.Range(1e-3, 1.0)}, "grid"),
        (
            {"b2": lab.Range(0.9, 0.999, "decay"), "learning_rate": [0.1, 1.0], "nesterov": [True, False]},
            "random",
        ),
        ({"nesterov": [True, False]}, "grid"),
    ],
)
def test_the_picture_names_its_axes(space, method, tmp_path):
    result = sweep(TX, space, method=method, trials=None if method == "grid" else 6, steps=3)
    figure = result.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes[:-1])
    assert result._repr_png_().startswith(b"\x89PNG")


def test_ranges():
    assert lab.Range(1e-4, 1e-1, points=4).grid() == [1e-4, 1e-3, 1e-2, 1e-1]
    assert lab.Range(0.0, 1.0, "linear", 3).grid() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(lab.Range(0.9, 0.999, "decay", 3).grid(), [0.9, 0.99, 0.999])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {}}, "'space' must be a dict"),
        ({"space": {"learning_rat": [1.0]}}, "learning_rate"),
        ({"space": {"learning_rate": []}}, "must have at least one value for 'learning_rate'"),
        ({"space": {"learning_rate": 0.1}}, "must have a list or a Range for"),
        ({"space": {"eps": [0.1, -1.0]}}, "eps.*>= 0"),
        ({"space": {"b1": lab.Range(0.5, 1.5, "linear")}}, "b1"),
        ({"space": {"nesterov": lab.Range(0.5, 1.5)}}, "not a number that may vary"),
        ({"method": "best"}, "sweep: argument 'method' must be one of grid"),
        ({"rank_by": "luck"}, "'loss' or 'score'"),
        ({"rank_by": "score"}, "needs a task with a score"),
        ({"eta": 1}, "sweep: argument 'eta' must be"),
        ({"trials": 3}, "a grid has as many trials as combinations"),
        ({"memory": 0}, "sweep: argument 'memory' must be"),
        ({"optimizer": "adm"}, "Did you mean 'adam"),
        ({"optimizer": "adam(1e-3"}, "never closed"),
        ({"task": "digits"}, "argument 'task' must be left out"),
    ],
)
def test_mistakes(arguments, message):
    given = {"optimizer": "adam(1e-3)", "space": {"b1": [0.9]}, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.1), "argument 'low' must be below high"),
        ((0.0, 1.0), "above 0"),
        ((0.5, 1.0, "decay"), "below 1"),
        ((0.1, 1.0, "cubic"), "one of log, linear, decay"),
        ((0.1, 1.0, "log", 1), "points"),
    ],
)
def test_mistakes_of_ranges(arguments, message):
    with pytest.raises(ValueError, match=message):
        lab.Range(*arguments)
