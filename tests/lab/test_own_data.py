"""Your own data in a comparison: pairs, ragged batches, held-out sets, files on the command line."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import lab
from gradflow.lab._cli._main import main
from gradflow.lab._experiments._compare_run import EXTENSIONS
from gradflow.lab._tasks._files import task_of_table

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 3)).astype(np.float32)
Y = X @ np.asarray([1.0, -2.0, 0.5], np.float32)
quick = functools.partial(lab.compare, progress=False, seeds=1, steps=5, learning_rates=[0.01, 0.1])


def init(key):
    return {"w": jax.random.normal(key, (3,))}


def loss(params, x, y):
    return jnp.mean((x @ params["w"] - y) ** 2)


def on_batch(params, batch):
    return loss(params, *batch)


def test_pairs_of_arrays_ragged_batches_and_held_out_data():
    def minus_error(params, x, y):
        return -loss(params, x, y)

    whole = quick(
        "sgd", loss_fn=loss, params=init, batches=(X, Y), batch_size=16, test=(X, Y), metric=minus_error
    )
    assert whole.score_name == "minus error"
    entry = whole["sgd"]
    np.testing.assert_allclose(entry.score[1][0], -entry.final_loss[1][0], rtol=1e-5)
    ragged = [(X[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)]
    for function in (loss, on_batch):
        same = quick("sgd", loss_fn=function, params=init, batches=ragged)
        assert same["sgd"].losses == entry.losses


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"batches": (X, Y)}, "argument 'batch_size' must be given where 'batches' holds examples"),
        ({"batches": (X, Y[:9]), "batch_size": 8}, r"got shapes \(40, 3\), \(9,\)"),
        ({"batches": [(X, Y)], "loss_fn": lambda p: 0.0}, r"of \(params, batch\) or .*; got one of \(p\)"),
        ({"batches": [(X, Y)], "test": X, "metric": lambda: 0.0}, r"'metric' must be .*; got one of \(\)"),
    ],
)
def test_mistakes_with_own_data(own, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quick("sgd", **{"loss_fn": loss, "params": init, **own})


def test_a_factory_may_call_its_argument_as_it_likes():
    result = quick(
        {"mine": lambda rate: gf.sgd(rate)}, loss_fn=loss, params=init, batches=(X, Y), batch_size=8
    )
    assert result["mine"].learning_rates == [0.01, 0.1]


def test_a_comparison_continues_from_its_file(tmp_path):
    own = {"loss_fn": loss, "params": init, "batches": (X, Y), "batch_size": 8, "file": tmp_path / "c.jsonl"}
    first = quick("sgd(0.1)", **own)
    both = quick(["sgd(0.1)", "adam(0.1)"], **own)
    assert both["sgd(0.1)"] == first["sgd(0.1)"], "with its seconds, since it is not trained again"
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match=r"holds another comparison \(first losses: "):
        quick("sgd(0.1)", **{**own, "batches": (X, 2 * Y)})


def test_a_metric_needs_held_out_data():
    with pytest.raises(TypeError, match="'test' and 'metric' must be given together"):
        quick("sgd", loss_fn=loss, params=init, batches=(X, Y), batch_size=8, metric=loss)


def test_a_grid_goes_on_beyond_its_end_until_the_best_rate_is_inside():
    def run(curvature, **arguments):
        bowl = lambda p: curvature * jnp.sum(p["w"] ** 2)  # noqa: E731
        return lab.compare(
            {"gd": lambda learning_rate: gf.scale(-learning_rate)}, loss_fn=bowl, params=init, steps=4,
            seeds=3, progress=False, **arguments,
        )  # fmt: skip

    # Newton's step is 1 / (2 * curvature) = 0.5, 5e3 and 5e-6; the usual grid is 3e-4 to 0.1.
    high, low = run(1e-4), run(1e5)
    assert (high["gd"].best_rate, low["gd"].best_rate) == (pytest.approx(3e3), pytest.approx(3e-6))
    assert not high["gd"].best_is_at_the_end
    rates = high["gd"].learning_rates
    assert rates == sorted(rates)
    assert "beyond the grid too, since the best was at its end: gd" not in run(1.0).table()
    given = run(1e-4, learning_rates=[0.01, 0.1])["gd"]
    assert given.learning_rates == [0.01, 0.1], "rates of your own are not extended"
    never = run(1e-12)["gd"]
    assert len(never.learning_rates) == 6 * (1 + EXTENSIONS)


def entry(name, losses, rates):
    runs = np.asarray(losses, float)
    return lab.Entry.of_losses(
        np.stack([np.full_like(runs, 100.0), runs], axis=-1), [0, 1], None, name=name, learning_rates=rates,
        score=None, state_bytes_per_parameter=0.0, seconds=0.0, compile_seconds=0.0, describe=str,
    )  # fmt: skip


def test_an_order_is_settled_only_beyond_the_resolution_of_the_grid():
    spread = np.asarray([0.0, 0.01, 0.02])
    # The parabola through 5, 1, 2 has its lowest point 9 / 40 below the middle.
    first = entry("first", [5 + spread, 1 + spread, 2 + spread], [0.1, 1.0, 10.0])
    assert first.resolution("loss") == pytest.approx(9 / 40, rel=1e-9)
    alone = [entry("unchanged", [value + spread], [None]) for value in (0.7, 0.9, 1.1)]
    assert alone[0].resolution("loss") == 0
    assert math.isinf(
        entry("lost", [[math.inf] * 3, 1 + spread, [math.inf] * 3], [1, 2, 3]).resolution("loss")
    )

    def noise(*entries):
        return lab.Comparison("t", None, 1, [0, 1], [0, 1, 2], None, list(entries)).noise()

    assert noise(alone[1], first) == [("unchanged", "first")]
    assert noise(alone[0], first) == []
    assert noise(first, alone[2]) == [], "a finer grid can only make the first better"
    table = lab.Comparison("t", None, 1, [0, 1], [0, 1, 2], None, [alone[0], first]).table()
    assert "the smallest of which is 0.3 in the final loss" in table


def write_table(path, target):
    rows = [",".join(map(str, (*x, y))) for x, y in zip(X.tolist(), target, strict=True)]
    path.write_text("a,b,c,price\n" + "\n".join(rows) + "\n")
    return path


SMALL = ["--optimizers", "sgd", "--seeds", "1", "--steps", "3", "--learning-rates", "0.1", "--quiet"]


def test_a_table_on_the_command_line(tmp_path, capsys):
    table = write_table(tmp_path / "houses.csv", Y.tolist())
    out = tmp_path / "out"
    assert main(["compare", "--data", str(table), "--target", "price", "--out", str(out), *SMALL]) == 0
    shown = capsys.readouterr()
    assert "test R^2" in shown.out
    assert "Written" not in shown.out
    assert shown.err == ""
    assert json.loads((out / "comparison.json").read_text())["task"] == "houses"


def test_the_target_of_a_table_is_a_class_or_a_quantity(tmp_path):
    task = task_of_table(write_table(tmp_path / "t.csv", Y.tolist()))
    assert task.score_name == "test R^2"
    x, y = task.train
    assert (x.shape, task.test[0].shape) == ((32, 3), (8, 3))
    np.testing.assert_allclose(np.std(y), 1, rtol=1e-5)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    words = task_of_table(write_table(tmp_path / "t.csv", ["up" if y > 0 else "down" for y in Y]), "price")
    assert (words.score_name, set(np.unique(words.train[1]))) == ("test accuracy", {0.0, 1.0})
    semicolons = tmp_path / "s.csv"
    semicolons.write_text((tmp_path / "t.csv").read_text().replace(",", ";"))
    np.testing.assert_array_equal(task_of_table(semicolons, "price").train[0], words.train[0])
    three = task_of_table(write_table(tmp_path / "t.csv", [i % 3 for i in range(40)]))
    assert three.train[1].dtype == np.int32
    np.savez(tmp_path / "t.npz", x=X, y=np.arange(40) % 3)
    assert np.array_equal(task_of_table(tmp_path / "t.npz").train[1], three.train[1])


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        (lambda t: t, "prize", "--target must be a column of .*a, b, c, price; got 'prize'"),
        (lambda t: t.replace("a,b", "a;b"), None, "line 2: must have 3 columns; got 4"),
        (lambda t: t.replace("\n", "\nx,1,2,3\n", 1), None, "line 2, column 'a': must be .* got 'x'"),
        (lambda t: t.replace("\n", "\n1,2,,3\n", 1), None, "line 2, column 'c': must be .* got ''"),
        (lambda t: t.replace("\n", "\n1,2,3,\n", 1), None, "line 2, column 'price': must not be empty"),
        (lambda t: t.replace("\n", "\nred,1,2,3\n", 1), None, "got 'red'. Leave the column out, or write"),
        (lambda t: t.replace("\n", "\n1,2,3,low\n", 1), None, "line 2, column 'price': .* got 'low'"),
        (lambda t: t.replace("\n", "\n1,2,3,-Inf\n", 1), None, "line 2, column 'price': .* got '-Inf'"),
        (lambda t: t.replace("\n", "\n\n\nx,1,2,3\n", 1), None, "line 4, column 'a': must be .* got 'x'"),
        (lambda t: t.replace("\n", '\n"1\n",2,3,4\n\n1,2,3,\n', 1), None, "line 5, column 'price': must not"),
        (lambda t: t + "z" * 200_000, None, "must be a readable CSV file; got .*field larger"),
        (lambda t: "a,b\n1,2\n", None, "at least 10 rows"),
        (lambda t: "a\n" + "1\n" * 20, None, "has only 'a'"),
        (lambda t: "a,id\n" + "".join(f"1,x{i}\n" for i in range(20)), None, "'id', which has 20"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_by_line_and_column(change, column, message, tmp_path):
    table = write_table(tmp_path / "t.csv", Y.tolist())
    table.write_text(change(table.read_text()))
    with pytest.raises(ValueError, match=message):
        task_of_table(table, column)


def test_a_wrong_npz_file_is_named(tmp_path):
    file = tmp_path / "t.npz"
    for content in (b"", b"PK but no archive"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"--data must be a readable npz file; got .*t\.npz"):
            task_of_table(file)
    with file.open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(ValueError, match="it is a single array"):
        task_of_table(file)


def test_a_module_on_the_command_line(tmp_path, capsys):
    module = tmp_path / "mine.py"
    module.write_text(
        "import jax.numpy as jnp, numpy as np\n"
        "x = np.linspace(-1, 1, 20, dtype=np.float32)\n"
        "init = {'w': jnp.zeros(())}\n"
        "batches, batch_size = (x, 3 * x), 5\n"
        "def loss(params, x, y):\n"
        "    return jnp.mean((params['w'] * x - y) ** 2)\n"
    )
    assert main(["compare", "--module", str(module), "--out", str(tmp_path), *SMALL]) == 0
    assert "mine: no target loss" in capsys.readouterr().out
    module.write_text("init = 0\n")
    assert main(["compare", "--module", str(module), *SMALL]) == 2
    assert "has no loss, batches" in capsys.readouterr().err
    module.write_text("import math\n\nmath.sqrt(-1)\n")
    assert main(["compare", "--module", str(module), *SMALL]) == 2
    assert "mine.py, line 3: ValueError: math domain error" in capsys.readouterr().err
    module.write_text("init = (\n")
    assert main(["compare", "--module", str(module), *SMALL]) == 2
    assert "mine.py, line 1: SyntaxError: '(' was never closed\n" in capsys.readouterr().err
    assert main(["compare", "--target", "price", *SMALL]) == 2
    assert "--target must be a number without --data" in capsys.readouterr().err


def test_the_frame_shows_the_start_and_the_paths():
    result = lab.trajectory("sgd(1e-4)", "beale", start=(9.0, -7.0), steps=3)
    assert result.x[0] < 9 < result.x[-1]
    assert result.y[0] < -7 < result.y[-1]
    usual = lab.trajectory("sgd(1e-4)", "beale", steps=3)
    window = lab.LANDSCAPES["beale"].window
    assert ((usual.x[0], usual.x[-1]), (usual.y[0], usual.y[-1])) == window
