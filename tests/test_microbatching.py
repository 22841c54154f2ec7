"""Pieces of a batch against the whole batch, in plain NumPy where the result is a number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow.microbatching import (
    AccumulationType,
    Accumulator,
    micro_grad,
    micro_vmap,
    microbatch,
    reshape_batch_axis,
)

MEAN, SUM = AccumulationType.MEAN, AccumulationType.SUM
RUNNING_MEAN, CONCAT = AccumulationType.RUNNING_MEAN, AccumulationType.CONCAT
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
# A carry of any kind, counted from outside: the sum of (i + 1) * x_i, doubled.
WEIGHTED = Accumulator(
    init=lambda like: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
    update=lambda carry, x, i: jax.tree.map(lambda c, v: c + v * (i + 1).astype(v.dtype), carry, x),
    finalize=lambda carry: jax.tree.map(lambda c: 2 * c, carry),
    aggregate=lambda rows: jax.tree.map(lambda v: v.sum(axis=0), rows),
)


def pieces(x, size):
    """The pieces in order: piece i of k holds the rows i, i + k, i + 2 k, ..."""
    count = len(x) // size
    return [x[i::count] for i in range(count)]


# reshape_batch_axis.


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_reshape_batch_axis(axis, size):
    x = np.arange(6 * 6 * 6).reshape(6, 6, 6)
    found = np.asarray(reshape_batch_axis({"a": x, "b": None}, size, axis)["a"])
    moved = np.moveaxis(x, axis, 0)
    expected = np.stack(pieces(moved, size))
    found = np.moveaxis(found, (axis % 3, axis % 3 + 1), (0, 1))
    np.testing.assert_array_equal(found, expected)


def test_sharded_rows_stay_where_they_are():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.device_put(np.arange(16.0), sharding)
    text = jax.jit(functools.partial(reshape_batch_axis, microbatch_size=4)).lower(x).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    f = jax.jit(microbatch(lambda x: x * 2, 0, 4, CONCAT))
    np.testing.assert_array_equal(f(x), np.arange(16.0) * 2)
    assert "all-gather" not in f.lower(x).compile().as_text()


# microbatch.


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("ran", [None, 0, 1])
def test_accumulation_is_what_a_loop_does(size, ran):
    def fun(x):
        return {"sum": x.sum(0), "mean": x.max(0), "run": x.min(), "all": x * 2, "some": x.sum()}

    kinds = {"sum": SUM, "mean": MEAN, "run": RUNNING_MEAN, "all": CONCAT, "some": CONCAT}
    found = jax.jit(microbatch(fun, 0, size, kinds, num_real_microbatches=ran))(X)
    parts = pieces(X.astype(np.float64), size)
    done = parts if ran is None else parts[:ran]
    count = max(len(done), 1)
    everything = np.zeros((len(parts), *parts[0].shape))
    sums = np.zeros(len(parts))
    for i, part in enumerate(done):
        everything[i], sums[i] = 2 * part, part.sum()
    expected = {
        "sum": sum((p.sum(0) for p in done), np.zeros(3)),
        "mean": sum((p.max(0) for p in done), np.zeros(3)) / count,
        "run": sum(p.min() for p in done) / count,
        "all": everything.swapaxes(0, 1).reshape(12, 3),
        "some": sums,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_concatenation_keeps_the_order():
    found = microbatch(lambda x: (x, x[:1]), 0, 4, CONCAT)(X)
    np.testing.assert_array_equal(found[0], X)
    np.testing.assert_array_equal(found[1], [p[0] for p in pieces(X, 4)])


def test_traced_number_of_pieces():
    @jax.jit
    def f(n):
        run = functools.partial(microbatch, argnums=0, microbatch_size=2, num_real_microbatches=n)
        return run(lambda x: x.sum(), accumulator=SUM)(X), run(lambda x: x.sum(), accumulator=MEAN)(X)

    for n in (0, 2, 6, 9, -1):  # beyond the ends: all or none
        done = pieces(X, 2)[: max(n, 0)]
        total, mean = f(n)
        assert float(total) == pytest.approx(sum(p.sum() for p in done), abs=1e-5)
        assert float(mean) == pytest.approx(sum(p.sum() for p in done) / max(len(done), 1), abs=1e-5)


def test_arguments_by_position_keyword_and_axis():
    def fun(a, scale, b, *, c):
        assert a.shape == (4, 3)
        assert b["x"].shape == (2, 4)
        assert c.shape == (4,)
        return scale * (a.sum() + b["x"].sum() + c.sum())

    b, c = {"x": np.ones((2, 12), np.float32), "none": None}, np.arange(12, dtype=np.float32)
    f = microbatch(fun, (0, -1), 4, argnames="c", in_axes=(0, -1, 0))
    assert float(f(X, 2.0, b, c=c)) == pytest.approx(2 * (X.sum() + 24 + c.sum()), rel=1e-5)
    # What has no batch axis may be anything.
    g = microbatch(lambda mode, x: x.sum() if mode == "sum" else x.max(), 1, 4)
    assert float(g("sum", X)) == pytest.approx(X.sum(), rel=1e-5)


def test_whole_numbers_of_any_kind():
    plain = microbatch(total, 0, 2, num_real_microbatches=3)(X)
    one, two, three = np.int64(0), np.float32(2), 3.0
    assert microbatch(total, one, two, in_axes=one, num_real_microbatches=three)(X) == plain
    np.testing.assert_array_equal(micro_vmap(total, one, microbatch_size=2.0)(X), micro_vmap(total)(X))
    product = lambda p, x: jnp.sum(x @ p)  # noqa: E731
    found, _ = micro_grad(product, batch_argnums=np.int64(1), microbatch_size=np.int32(3))(X[0], X)
    np.testing.assert_array_equal(found, micro_grad(product, microbatch_size=3)(X[0], X)[0])
    np.testing.assert_array_equal(reshape_batch_axis(X, 2.0, np.int64(0)), reshape_batch_axis(X, 2))


def test_no_size_is_the_function_itself():
    def fun(x):
        return x.sum()

    assert microbatch(fun, 0, None) is fun


def test_custom_accumulators_and_prefixes():
    total = sum((i + 1) * p.sum() for i, p in enumerate(pieces(X, 3))) * 2
    found = microbatch(lambda x: {"a": x.sum(), "b": (x.sum(), None)}, 0, 3, WEIGHTED)(X)
    assert float(found["a"]) == pytest.approx(total, rel=1e-5)
    assert found["b"][1] is None
    found = microbatch(lambda x: (x, {"a": x.sum(), "b": x.sum()}), 0, 3, (CONCAT, WEIGHTED))(X)
    np.testing.assert_array_equal(found[0], X)
    assert float(found[1]["b"]) == pytest.approx(total, rel=1e-5)
    found = micro_vmap(jnp.sum, microbatch_size=3, accumulator=WEIGHTED)(X)
    assert float(found) == pytest.approx(total, rel=1e-5)
    found = micro_vmap(jnp.sum, accumulator=WEIGHTED)(X)
    assert float(found) == pytest.approx(2 * X.sum(), rel=1e-5)


@pytest.mark.parametrize("kind", [SUM, MEAN, RUNNING_MEAN])
def test_small_floats_are_added_in_float32(kind):
    x = jnp.ones(512, jnp.bfloat16)
    found = microbatch(lambda x: x[0], 0, 1, kind)(x)
    assert found.dtype == jnp.bfloat16
    assert float(found) == (512 if kind is SUM else 1)
    found = micro_vmap(lambda x: x, microbatch_size=64, accumulator=kind)(x)
    assert found.dtype == jnp.bfloat16
    assert float(found) == (512 if kind is SUM else 1)


def test_a_running_mean_does_not_overflow():
    mean = microbatch(lambda x: x[0], 0, 1, RUNNING_MEAN)
    assert float(mean(jnp.full(4, 3e38))) == pytest.approx(3e38)
    assert float(mean(jnp.asarray([3e38, -3e38, 3e38]))) == pytest.approx(1e38)


def test_integers_booleans_and_complex_numbers():
    n = np.arange(12, dtype=np.int32)
    f = functools.partial(microbatch, argnums=0, microbatch_size=3)
    assert f(lambda x: x.sum(), accumulator=SUM)(n).dtype == jnp.int32
    for kind in (MEAN, RUNNING_MEAN):
        found = f(lambda x: x.sum(), accumulator=kind)(n)
        assert found.dtype == jnp.float32
        assert float(found) == pytest.approx(66 / 4)
    found = f(lambda x: (x > 4).any(), accumulator=(SUM))(n)
    assert found.dtype == jnp.int32
    assert int(found) == 4
    assert float(micro_vmap(lambda x: x > 8, microbatch_size=3, accumulator=MEAN)(n)) == 0.25
    found = f(lambda x: x.sum().astype(jnp.float32) * jnp.complex64(1j).imag, accumulator=MEAN)(n)
    assert float(found) == pytest.approx(66 / 4)
    z = f(lambda x: jax.lax.complex(x.sum(), x.max()), accumulator=MEAN)(n.astype(np.float32))
    assert z.dtype == jnp.complex64
    np.testing.assert_array_equal(f(lambda x: x > 4, accumulator=CONCAT)(n), n > 4)


def test_keys_are_rows_too():
    keys = jax.random.split(jax.random.key(0), 6)
    expected = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    found = micro_vmap(lambda k: jax.random.normal(k, (2,)), microbatch_size=2)(keys)
    np.testing.assert_array_equal(found, expected)


def test_empty_batches_and_results():
    empty = np.zeros((0, 3), np.float32)
    found = microbatch(lambda x: (x.sum(), x, x.mean()), 0, 4, (SUM, CONCAT, MEAN))(empty)
    assert float(found[0]) == float(found[2]) == 0
    assert found[1].shape == (0, 3)
    assert micro_vmap(jnp.sum)(empty).shape == (0,)
    assert microbatch(lambda x: (), 0, 4)(X) == ()
    assert microbatch(lambda x: None, 0, 4)(X) is None


@pytest.mark.parametrize("kind", [RUNNING_MEAN, CONCAT])
def test_derivatives_pass_through_the_loop(kind):
    def f(w, size):
        return jnp.sum(microbatch(lambda x: jnp.sin(x @ w), 0, size, kind)(X) ** 2)

    w = jnp.array([0.1, -0.2, 0.3])
    slope = jax.jit(jax.grad(f), static_argnums=1)(w, 3)
    step = 1e-2 * np.eye(3, dtype=np.float32)
    expected = [(f(w + e, 3) - f(w - e, 3)) / 2e-2 for e in step]
    np.testing.assert_allclose(slope, expected, rtol=2e-2, atol=2e-2)


def test_function_is_traced_once_and_runs_in_a_loop():
    count = 0

    def fun(x):
        nonlocal count
        count += 1
        return jnp.sin(x).sum()

    text = str(jax.make_jaxpr(microbatch(fun, 0, 2))(X))
    assert count == 1
    assert text.count(" sin ") == 1
    assert "scan[" in text


def test_memory_is_that_of_a_piece():
    # A row becomes a (256, 256) matrix: 12 of them at once, or one at a time.
    def fun(x):
        return jnp.sin(x.sum(1)[:, None, None] * jnp.ones((1, 256, 256)) @ jnp.eye(256)[None]).sum()

    def scratch(f):
        return jax.jit(f).lower(X).compile().memory_analysis().temp_size_in_bytes

    assert scratch(microbatch(fun, 0, 1)) < 0.3 * scratch(microbatch(fun, 0, 12))


# micro_vmap.


@pytest.mark.parametrize("size", [None, 1, 4, 12])
def test_micro_vmap_is_vmap(size):
    def fun(x, y, w, z):
        return {"a": jnp.outer(x, y), "b": w * z}

    y, w, z = X[:, :2].T, 2.0, np.arange(12, dtype=np.float32)
    expected = jax.vmap(lambda x, y, z: fun(x, y, w, z), (0, 1, 0))(X, y, z)
    for axes in [(0, 1, None), (0, -1, None)]:
        found = jax.jit(micro_vmap(fun, axes, microbatch_size=size))(X, y, w, z=z)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)
    for kind, reduce in [(SUM, np.sum), (MEAN, np.mean), (RUNNING_MEAN, np.mean)]:
        found = micro_vmap(fun, axes, microbatch_size=size, accumulator=kind)(X, y, w, z=z)
        np.testing.assert_allclose(found["b"], reduce(expected["b"]), rtol=1e-5)
        np.testing.assert_allclose(found["a"], reduce(expected["a"], axis=0), atol=1e-5)


def test_another_vmap_is_called():
    named = lambda f, i, o: jax.vmap(f, i, o, axis_name="rows")  # noqa: E731
    found = micro_vmap(lambda x: x - jax.lax.pmean(x, "rows"), vmap_fn=named)(X)
    np.testing.assert_allclose(found, X - X.mean(0), atol=1e-6)


# micro_grad.


def loss(w, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2)


@pytest.mark.parametrize("size", [None, 1, 4])
def test_micro_grad_of_least_squares(size):
    w, y = np.array([0.5, -1.0, 2.0], np.float32), np.arange(12, dtype=np.float32)
    residual = X @ w - y
    rows = residual[:, None] * X
    clip = lambda g: g / jnp.maximum(1, jnp.linalg.norm(g))  # noqa: E731
    f = micro_grad(
        loss,
        batch_argnums=(1, 2),
        microbatch_size=size,
        accumulator=(MEAN, SUM, CONCAT),
        transform_fn=lambda g: (g, clip(g), g**2),
        metrics_fn=jnp.linalg.norm,
    )
    (mean, clipped, squares), aux = jax.jit(f)(w, X, y)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(clipped, (rows / np.maximum(1, norms)[:, None]).sum(0), rtol=1e-4)
    np.testing.assert_allclose(squares, rows**2, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(aux.values, residual**2 / 2, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics, norms, rtol=1e-4)
    assert aux.aux is None


@pytest.mark.parametrize("keep", [True, False])
def test_what_the_function_sees_of_a_row(keep):
    def fun(w, x, c, mode, *, z):
        assert x.shape == ((1, 3) if keep else (3,))
        assert z.shape == ((1,) if keep else ())
        assert mode == "plain"
        return w * (x.sum() + z.sum()) * c, {"size": x.size}

    z = np.arange(12, dtype=np.float32)
    f = micro_grad(fun, True, (0, 2), keep_batch_dim=keep, microbatch_size=4)
    (slope_w, slope_c), aux = f(2.0, X, 3.0, "plain", z=z)
    total = X.sum() + z.sum()
    assert float(slope_w) == pytest.approx(3 * total, rel=1e-4)
    assert float(slope_c) == pytest.approx(2 * total, rel=1e-4)
    np.testing.assert_array_equal(aux.aux["size"], np.full(12, 3))
    assert aux.metrics is None


def test_micro_grad_with_half_precision_parameters():
    w = {"w": jnp.ones(3, jnp.bfloat16), "none": None}
    grads, _ = micro_grad(lambda w, x: jnp.sum(w["w"]), microbatch_size=1)(w, np.ones(512))
    assert grads["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads["w"].astype(jnp.float32), 512)
    assert grads["none"] is None


def test_second_witness():
    their = optax.microbatching
    fun = lambda x: (x.sum(0), x * 2, x.max())  # noqa: E731
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kinds = their.AccumulationType
        theirs = their.microbatch(fun, 0, 4, (kinds.SUM, kinds.CONCAT, kinds.RUNNING_MEAN))(X)
        rows = their.reshape_batch_axis(X, 4)
    found = microbatch(fun, 0, 4, (SUM, CONCAT, RUNNING_MEAN))(X)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, theirs)
    np.testing.assert_array_equal(reshape_batch_axis(X, 4), rows)
    assert [kind.name for kind in AccumulationType] == [kind.name for kind in kinds]


def total(x):
    return x.sum()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: reshape_batch_axis(X, 5), ValueError, ["reshape_batch_axis", "12 rows", "5"]),
        (lambda: reshape_batch_axis({"a": X, "b": X[:6]}, 3), ValueError, ["12", "6", "'b'"]),
        (lambda: reshape_batch_axis({"a": 1.0}, 3), ValueError, ["'a'", "axis 0", "1.0"]),
        (lambda: reshape_batch_axis(X, 0), ValueError, ["'microbatch_size' must be a whole number >= 1"]),
        (lambda: reshape_batch_axis({}, 1), ValueError, ["no arrays"]),
        (lambda: microbatch(total, 0, 5)(X), ValueError, ["microbatch:", "12 rows", "5"]),
        (lambda: microbatch(total, 0, 2.5), ValueError, ["microbatch_size", "2.5"]),
        (lambda: microbatch(3, 0, 2), TypeError, ["'fun'", "3"]),
        (lambda: microbatch(total, 0, 2, "sum"), TypeError, ["accumulator", "'sum'"]),
        (lambda: microbatch(total, 0, 2, (SUM, SUM))(X), ValueError, ["accumulator", "prefix"]),
        (lambda: microbatch(total, 1, 2)(X), TypeError, ["argument 1", "1 positional"]),
        (lambda: microbatch(total, 0, 2, argnames="y")(X), TypeError, ["'y'", "keyword"]),
        (lambda: microbatch(total, 0, 2, in_axes=(0, 1)), ValueError, ["in_axes", "2"]),
        (lambda: microbatch(total, 0, 2, in_axes=2)(X), ValueError, ["argument 0", "axis 2"]),
        (
            lambda: microbatch(total, 0, 2, num_real_microbatches=7)(X),
            ValueError,
            ["'num_real_microbatches' must be <= 6", "7"],
        ),
        (lambda: microbatch(total, 0, 2, num_real_microbatches=-1), ValueError, [">= 0", "-1"]),
        (lambda: microbatch(total, 0, 2, num_real_microbatches=1.5), ValueError, ["1.5"]),
        (lambda: microbatch(total, 0, None, num_real_microbatches=1), ValueError, ["None"]),
        (lambda: micro_vmap(total, out_axes=1), ValueError, ["micro_vmap", "out_axes", "1"]),
        (lambda: micro_vmap(total, ({"a": 0},)), TypeError, ["in_axes"]),
        (lambda: micro_vmap(total, True), TypeError, ["in_axes", "True"]),
        (lambda: micro_vmap(total, (0, 0))(X), ValueError, ["2 positional", "got 1"]),
        (lambda: micro_vmap(total, (None,))(X), ValueError, ["batch axis"]),
        (lambda: micro_vmap(lambda x, c: x)(X, c=1.0), ValueError, ["'c'", "1.0"]),
        (lambda: micro_grad(loss, batch_argnums=()), ValueError, ["micro_grad", "batch_argnums"]),
        (lambda: micro_grad(loss, transform_fn=3), TypeError, ["transform_fn", "3"]),
        (lambda: micro_grad(loss, batch_argnums=(1, 2))(X[0], X, X[:5]), ValueError, ["12", "5"]),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
