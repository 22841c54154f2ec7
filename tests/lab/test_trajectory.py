"""`trajectory`: its paths against plain runs, the landscapes, and its mistakes."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import lab


@pytest.mark.parametrize("name", sorted(lab.LANDSCAPES))
def test_the_minima_are_minima(name):
    place = lab.LANDSCAPES[name]
    (left, right), (bottom, top) = place.window
    for point in (*place.minima, place.start):
        assert left < point[0] < right
        assert bottom < point[1] < top
    with jax.enable_x64(True):
        for point in place.minima:
            xy = jnp.asarray(point, jnp.float64)
            assert float(place.function(xy)) == pytest.approx(place.lowest, abs=1e-6)
            assert float(jnp.linalg.norm(jax.grad(place.function)(xy))) < 1e-3
            assert (np.linalg.eigvalsh(np.asarray(jax.hessian(place.function)(xy))) > 0).all()


def test_a_path_is_a_plain_run():
    result = lab.trajectory({"mine": gf.adam(0.1)}, "rosenbrock", steps=10)
    path, function = result["mine"], lab.LANDSCAPES["rosenbrock"].function
    xy = jnp.asarray([-1.2, 1.0])
    tx = gf.adam(0.1)
    state = tx.init(xy)
    points = [xy]
    for _ in range(10):
        updates, state = tx.update(jax.grad(function)(xy), state, xy)
        xy = gf.apply_updates(xy, updates)
        points.append(xy)
    np.testing.assert_allclose(path.points, points, rtol=1e-5)
    np.testing.assert_allclose(path.values, [function(point) for point in points], rtol=1e-5)
    assert path.learning_rate is None
    assert not path.diverged


def test_names_are_tuned_and_searches_and_averages_take_part():
    names = ["sgd", "lbfgs", "schedule_free_sgd", "polyak_sgd"]
    result = lab.trajectory(names, "ravine", steps=60, learning_rates=[1e-3, 0.1, 1.0])
    assert [path.name for path in result.paths] == names
    assert result["sgd"].learning_rate == 0.1
    assert result["lbfgs"].values[-1] < 1e-6
    assert not any(path.diverged for path in result.paths)


def test_noise_is_the_same_for_all_and_absent_where_there_is_none():
    a, b = (lab.trajectory(["sgd(0.01)"], "noisy_quadratic", steps=5, seed=s).paths[0] for s in (0, 1))
    assert a.points != b.points
    assert a.points == lab.trajectory(["adam", "sgd(0.01)"], "noisy_quadratic", steps=5).paths[1].points


def test_a_diverged_path_is_said_to_be(tmp_path):
    result = lab.trajectory(["sgd(10.0)", "adam(0.1)"], "rosenbrock", steps=20)
    wild = result["sgd(10.0)"]
    assert wild.diverged
    assert "diverged" in result.table()
    assert any(
        "diverged" in text.get_text() for text in result.plot(tmp_path / "a.png").legends[0].get_texts()
    )
    json.loads(result.to_json())


def test_a_function_of_ones_own(tmp_path):
    def bowl(xy):
        return jnp.sum((xy - 3.0) ** 2)

    result = lab.trajectory(["sgd(0.1)"], bowl, start=(0, 1), steps=30)
    assert result.function == "bowl"
    assert math.isclose(result.paths[0].values[-1], 0, abs_tol=1e-3)
    assert result.x[0] < 0 < 3 < result.x[-1]
    figure = result.plot(tmp_path / "own.png")
    assert [axis.get_xlabel() for axis in figure.axes] == ["x", "step"]
    assert all(axis.get_ylabel() for axis in figure.axes)
    [written, _] = result.save(tmp_path / "out")
    assert json.loads(written.read_text())["start"] == [0, 1]


def test_what_is_for_matrices_is_labelled():
    result = lab.trajectory(["muon(0.02)", "adam(0.1)"], "beale", steps=3)
    assert [path.as_for_vectors for path in result.paths] == [True, False]
    assert "muon(0.02) (as for vectors)" in result.table()
    assert "adam(0.1) (as for vectors)" not in result.table()
    assert "muon(0.02): a point is not a matrix" in result.table()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "bele"}, "Did you mean 'beale"),
        ({"function": 3}, "must be a name, a Landscape, or a function"),
        ({"function": jnp.sum}, "argument 'start' must be"),
        ({"function": lambda xy: xy, "start": (0, 0)}, "one number"),
        ({"start": (1,)}, "two finite numbers"),
        ({"start": (1, float("nan"))}, "two finite numbers"),
        ({"steps": 0}, "trajectory: argument 'steps' must be"),
        ({"learning_rates": [-1]}, "positive"),
        ({"optimizers": "adm"}, "Did you mean 'adam"),
        ({"optimizers": 3}, "trajectory: argument 'optimizers'"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lab.trajectory(**{"optimizers": "sgd", **arguments})
