"""Smoothed functions against closed forms, and their derivatives against derivatives of those."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow.perturbations import Gumbel, Normal, make_perturbed_fun

KEY = jax.random.key(0)
NOISES = [Gumbel(), Normal()]


def argmax(x):
    return (jnp.arange(3) == jnp.argmax(x)).astype(jnp.float32)


@pytest.mark.parametrize("noise", NOISES)
def test_densities_integrate_to_one_and_match_the_samples(noise):
    z = np.linspace(-12, 40, 400_001)
    with jax.enable_x64(True):
        density = np.exp(noise.log_prob(jnp.asarray(z)))
    step = z[1] - z[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-6)
    mean, square = (density * z).sum() * step, (density * z * z).sum() * step
    draws = np.asarray(noise.sample(KEY, (100_000,)))
    assert draws.dtype == np.float32
    assert draws.mean() == pytest.approx(mean, abs=0.02)
    assert (draws**2).mean() == pytest.approx(square, abs=0.05)
    assert noise.sample(KEY, (3,), jnp.bfloat16).dtype == jnp.bfloat16
    assert noise.sample(KEY).shape == ()


@pytest.mark.parametrize("noise", NOISES)
def test_distributions_are_values(noise):
    assert noise == type(noise)()
    assert hash(noise) == hash(type(noise)())
    assert pickle.loads(pickle.dumps(noise)) == noise


def test_gumbel_smooths_argmax_to_softmax():
    x, sigma = jnp.array([0.3, 1.0, -0.2]), 0.7
    f = jax.jit(make_perturbed_fun(argmax, 200_000, sigma))
    np.testing.assert_allclose(f(KEY, x), jax.nn.softmax(x / sigma), atol=5e-3)
    found = jax.jit(jax.jacobian(make_perturbed_fun(argmax, 200_000, sigma), 1))(KEY, x)
    softmax = np.asarray(jax.nn.softmax(x / sigma))
    expected = (np.diag(softmax) - np.outer(softmax, softmax)) / sigma
    np.testing.assert_allclose(found, expected, atol=2e-2)


@pytest.mark.parametrize("baseline", [True, False])
def test_derivatives_of_all_orders_for_a_quadratic(baseline):
    # E[|x + s z|^2] = |x|^2 + 2 s^2 for two normal numbers: slopes 2 x and 4 s, curvature 2 I.
    def f(key, x, s):
        fun = lambda x: jnp.sum(x * x)  # noqa: E731
        return make_perturbed_fun(fun, 400_000, s, Normal(), use_baseline=baseline)(key, x)

    x, s = jnp.array([0.5, -1.0]), jnp.float32(0.8)
    value, slopes = jax.jit(jax.value_and_grad(f, (1, 2)))(KEY, x, s)
    assert float(value) == pytest.approx(1.25 + 2 * 0.64, abs=0.02)
    np.testing.assert_allclose(slopes[0], [1.0, -2.0], atol=0.03)
    assert float(slopes[1]) == pytest.approx(4 * 0.8, abs=0.06)
    np.testing.assert_allclose(jax.jit(jax.hessian(f, 1))(KEY, x, s), 2 * np.eye(2), atol=0.15)


def test_slope_equals_the_score_function_estimate():
    # One sample at a time, written out: (fun(x + s z) - fun(x)) * -(log p)'(z) / s.
    x, s, n = jnp.array([0.4, -0.3]), 0.5, 7
    fun = lambda x: jnp.where(x[0] > 0.2, 3.0, -1.0) + x[1] ** 2  # noqa: E731
    keys = [jax.random.split(key, 1)[0] for key in jax.random.split(KEY, n)]
    z = np.asarray([Gumbel().sample(key, (2,)) for key in keys], np.float64)
    f = make_perturbed_fun(fun, n, s, Gumbel())
    value, slope = jax.jit(jax.value_and_grad(f, 1))(KEY, x)
    points = np.asarray(x) + s * z
    values = np.where(points[:, 0] > 0.2, 3.0, -1.0) + points[:, 1] ** 2
    score = (1 - np.exp(-z)) / s
    assert float(value) == pytest.approx(values.mean(), abs=1e-5)
    expected = ((values - float(fun(x)))[:, None] * score).mean(axis=0)
    np.testing.assert_allclose(slope, expected, rtol=2e-5)


def test_baseline_keeps_the_value_and_lowers_the_variance():
    x, keys = jnp.ones(3), jax.random.split(KEY, 50)
    fun = lambda x: 100 + jnp.sum(jnp.sign(x))  # noqa: E731
    slopes, values = {}, {}
    for baseline in (True, False):
        f = make_perturbed_fun(fun, 100, 1.0, Normal(), baseline)
        values[baseline], slopes[baseline] = jax.jit(jax.vmap(jax.value_and_grad(f, 1), (0, None)))(keys, x)
    np.testing.assert_allclose(values[True], values[False], rtol=1e-6)
    assert slopes[True].std() < 0.1 * slopes[False].std()


def test_what_the_function_closes_over_is_differentiated_as_usual():
    def f(a):
        return make_perturbed_fun(lambda x: jnp.sum(a * x), 1000, 0.1, Normal())(KEY, jnp.ones(3))

    assert float(jax.jit(jax.grad(f))(2.0)) == pytest.approx(3, abs=0.05)


def test_trees_and_dtypes():
    def fun(t):
        return {"sum": t["a"].sum() + t["b"], "which": jnp.argmax(t["a"]), "none": None}

    x = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.array(0.5, jnp.bfloat16), "c": None}
    f = jax.jit(make_perturbed_fun(fun, 2000, 0.1, Normal()))
    found = f(KEY, x)
    assert found["sum"].dtype == jnp.bfloat16
    assert found["which"].dtype == jnp.float32
    assert found["none"] is None
    assert float(found["which"]) == pytest.approx(1, abs=0.1)
    slope = jax.jit(jax.grad(lambda x: f(KEY, x)["sum"].astype(jnp.float32)))(x)
    assert slope["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(slope["a"].astype(jnp.float32), np.ones(3), atol=0.2)
    assert slope["c"] is None


@pytest.mark.parametrize("x", [{}, {"a": jnp.zeros((0, 2))}, jnp.array(2.0)])
def test_empty_and_scalar_trees(x):
    found = jax.jit(make_perturbed_fun(lambda t: jax.tree.map(jnp.sum, t), 50, 1e-4))(KEY, x)
    assert jax.tree.structure(found) == jax.tree.structure(x)
    constant = jax.jit(make_perturbed_fun(lambda t: jnp.ones(2), 50))(KEY, x)
    np.testing.assert_array_equal(constant, 1)


def test_large_points_keep_their_noise():
    # (x + s z - x) / s would be rounded to nothing here.
    f = make_perturbed_fun(lambda x: jnp.sum(x), 20_000, 1.0, Normal())
    slope = jax.jit(jax.grad(f, 1))(KEY, jnp.full(1, 1e4))
    np.testing.assert_allclose(slope, 1, atol=0.05)


def test_an_infinite_baseline_does_not_reach_the_value():
    fun = lambda x: jnp.where(x == 1, jnp.inf, x)  # noqa: E731
    assert np.isfinite(jax.jit(make_perturbed_fun(fun, 10))(KEY, jnp.array(1.0)))


def test_jit_and_vmap_change_nothing():
    f = make_perturbed_fun(argmax, 50, 0.5)
    keys, xs = jax.random.split(KEY, 3), jnp.arange(9.0).reshape(3, 3) / 9
    looped = np.stack([f(k, x) for k, x in zip(keys, xs, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(keys, xs), looped, atol=1e-6)


def test_second_witness():
    x = jnp.array([0.3, -0.2, 0.1])
    fun = lambda x: jnp.sum(jnp.maximum(x, 0))  # noqa: E731
    ours = jax.jit(jax.grad(make_perturbed_fun(fun, 100_000, 0.5), 1))(KEY, x)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.perturbations.make_perturbed_fun(fun, 100_000, 0.5)
        expected = jax.jit(jax.grad(theirs, 1))(KEY, x)
    np.testing.assert_allclose(ours, expected, atol=0.03)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: make_perturbed_fun(3), TypeError, ["'fun'", "3"]),
        (lambda: make_perturbed_fun(argmax, 0), ValueError, ["'num_samples' must be a whole number", "0"]),
        (lambda: make_perturbed_fun(argmax, 2**31), ValueError, ["num_samples", "2147483648"]),
        (lambda: make_perturbed_fun(argmax, 2.5), ValueError, ["num_samples", "2.5"]),
        (lambda: make_perturbed_fun(argmax, 5, 0.0), ValueError, ["'sigma' must be > 0", "0.0"]),
        (lambda: make_perturbed_fun(argmax, 5, jnp.ones(2)), ValueError, ["sigma", "(2,)"]),
        (lambda: make_perturbed_fun(argmax, 5, 1.0, Gumbel), TypeError, ["noise", "Gumbel"]),
        (lambda: make_perturbed_fun(argmax)(jnp.ones(3), KEY), TypeError, ["f(key, x)", "float32[3]"]),
        (lambda: make_perturbed_fun(argmax)(KEY, {"a": jnp.arange(3)}), TypeError, ["'a'", "int32"]),
        (lambda: make_perturbed_fun(argmax)(KEY, "x"), TypeError, ["'x'"]),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in ["make_perturbed_fun", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("noise", ["Gumbel", "Normal"])
def test_one_key_has_the_samples_that_it_has_in_the_field(noise):
    optax = pytest.importorskip("optax")
    x = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(4)}

    def fun(tree):
        return jnp.argmax(tree["a"]) + jnp.sum(jnp.square(tree["b"]))

    theirs = optax.perturbations.make_perturbed_fun(fun, 50, 0.7, getattr(optax.perturbations, noise)())
    ours = make_perturbed_fun(fun, 50, 0.7, {"Gumbel": Gumbel, "Normal": Normal}[noise]())
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(ours(KEY, x), theirs(KEY, x), rtol=1e-5)
        slopes = [jax.grad(f, 1)(KEY, x) for f in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *slopes)
