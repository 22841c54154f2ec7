"""Matrix functions against numpy.linalg in float64, and against the conditions that define them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow.linalg import (
    NEWTON_SCHULZ_SAFETY,
    NEWTON_SCHULZ_TABLES,
    _newton_schulz,
    matrix_inverse_pth_root,
    newton_schulz,
    nnls,
    power_iteration,
)


def psd(n, condition, seed=0):
    """A random symmetric matrix with eigenvalues from 1 / condition to 1."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (q * np.logspace(-np.log10(condition), 0, n)) @ q.T


def polar(x):
    u, _, vh = np.linalg.svd(np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64))
    k = min(x.shape)
    return u[:, :k] @ vh[:k]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Newton-Schulz.


@pytest.mark.parametrize(
    ("shape", "table"),
    [
        ((6, 6), "quintic"),
        ((4, 9), "cubic"),
        ((9, 4), "quintic"),
        ((5, 1), "quintic"),
        ((1, 1), "quintic"),
    ],
)
def test_exact_tables_reach_the_polar_factor(shape, table):
    x = normal(*shape)
    np.testing.assert_allclose(newton_schulz(x, table), polar(x), atol=2e-5)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [("keller", 0.65, 1.25), ("polar_express", 0.8, 1.2), ("keller_then_exact", 0.98, 1.01)],
)
@pytest.mark.parametrize("shape", [(32, 100)])
def test_fast_tables_keep_the_singular_vectors(table, low, high, shape):
    x = normal(*shape)
    y = np.asarray(newton_schulz(x, table), np.float64)
    u, s, vh = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    inner = u.T @ y @ vh.T
    sizes = np.diag(inner)
    np.testing.assert_allclose(inner, np.diag(sizes), atol=1e-4)
    large = s > 0.02 * np.sqrt((s**2).sum())
    assert (sizes[large] > low).all()
    assert (sizes < high).all()


@pytest.mark.parametrize("table", NEWTON_SCHULZ_TABLES)
@pytest.mark.parametrize("shape", [(7, 5)])
def test_every_table_against_its_polynomials(table, shape):
    x = normal(*shape)
    u, s, vh = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    safety = NEWTON_SCHULZ_SAFETY.get(table, 1)
    s = s / (safety * np.sqrt((s**2).sum()) + 1e-7)
    for a, b, c in NEWTON_SCHULZ_TABLES[table]:
        s = a * s + b * s**3 + c * s**5
    np.testing.assert_allclose(newton_schulz(x, table), (u * s) @ vh, atol=5e-5)


def test_tables_are_what_their_authors_published():
    assert NEWTON_SCHULZ_TABLES["keller"] == ((3.4445, -4.7750, 2.0315),) * 5
    assert len(NEWTON_SCHULZ_TABLES["polar_express"]) == 5
    assert NEWTON_SCHULZ_TABLES["polar_express"][0] == (8.15655, -22.48329, 15.87877)
    with pytest.raises(TypeError):
        NEWTON_SCHULZ_TABLES["mine"] = ()
    # The exact ones have one as a fixed point, with a slope of zero.
    for table in ("cubic", "quintic"):
        a, b, c = NEWTON_SCHULZ_TABLES[table][-1]
        assert a + b + c == pytest.approx(1)
        assert a + 3 * b + 5 * c == pytest.approx(0)


def test_coefficients_in_every_form():
    x = normal(4, 6)
    triple = (2.0, -1.5, 0.5)
    expected = newton_schulz(x, (triple,) * 5)
    for coefficients, steps in [
        (triple, None),
        (triple, 5),
        ([triple], 5),
        (np.array(triple), None),
        (jnp.array([triple] * 5), None),
        ([jnp.array(triple), triple], 5),
    ]:
        np.testing.assert_allclose(newton_schulz(x, coefficients, steps), expected, atol=1e-6)
    first = newton_schulz(x, "polar_express", 2)
    table = NEWTON_SCHULZ_TABLES["polar_express"]
    np.testing.assert_allclose(newton_schulz(x, table[:2], safety=1.02), first, atol=1e-6)
    longer = newton_schulz(x, "polar_express", 7)
    exact = (1.875, -1.25, 0.375)
    np.testing.assert_allclose(newton_schulz(x, (*table, exact, exact), safety=1.02), longer, atol=1e-6)
    norm = np.linalg.norm(x)
    np.testing.assert_allclose(newton_schulz(x, "cubic", 0), x / norm, rtol=1e-5)
    np.testing.assert_allclose(newton_schulz(x, "cubic", 0, eps=norm), x / norm / 2, rtol=1e-5)


newton_schulz_slope = jax.jit(jax.grad(lambda x, eps: newton_schulz(x, eps=eps).sum()))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-20, 3e38])
def test_extreme_matrices(value):
    x = jnp.full((3, 4), value)
    for eps in (1e-7, 0.0):
        f = functools.partial(newton_schulz, eps=eps)
        assert np.isfinite(f(x)).all()
        assert np.isfinite(newton_schulz_slope(x, eps)).all()
        if value in (1e-20, 3e38) and (eps == 0 or value > 1):
            np.testing.assert_allclose(f(x).sum() / np.sqrt(12), 0.9, atol=0.25)


@pytest.mark.parametrize("scale", [0.0, 1e-37, 1e-20, 1.0, 1e20, 3e37])
def test_a_matrix_divided_by_its_norm_from_one_reading(scale):
    """As on a GPU and a TPU; a CPU looks for the largest number first."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 300)) * scale, jnp.float32)
    for eps in (0.0, 1e-7, scale):
        numbers = (jnp.float32(1.02), jnp.float32(eps))
        found = _newton_schulz._scaled_by_norm(x, *numbers)
        np.testing.assert_allclose(found, _newton_schulz._scaled_by_largest(x, *numbers), rtol=3e-6)
        assert bool(jnp.any(found)) == (scale > 0)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (3, 0, 4), (0, 4, 4)])
def test_matrices_without_elements(shape):
    assert newton_schulz(jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (1, 4, 6)])
def test_leading_axes_are_a_loop(shape):
    x = normal(*shape)
    found = np.asarray(newton_schulz(x))
    mapped = jax.jit(jax.vmap(newton_schulz))(x)
    for index in itertools.product(*map(range, shape[:-2])):
        expected = newton_schulz(x[index])
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
    np.testing.assert_allclose(mapped, found, atol=1e-5)


def test_one_matrix_is_multiplied_on_its_smaller_side_without_a_batch():
    def products(shape):
        text = str(jax.make_jaxpr(lambda x: newton_schulz(x, gram=False))(jnp.zeros(shape)))
        return [line.split("=")[0] for line in text.splitlines() if "dot_general" in line]

    for shape in [(3, 50), (50, 3), (1, 3, 50)]:
        sides = [line.split("f32[")[1].split("]")[0] for line in products(shape)]
        wide = "50,3" if shape == (50, 3) else "3,50"
        assert sides == ["3,3", "3,3", wide] * 5
    cubic = jax.make_jaxpr(lambda x: newton_schulz(x, "cubic", gram=False))(jnp.zeros((3, 50)))
    assert str(cubic).count("dot_general[") == 2 * 20


SPECTRA = {
    "gaussian": lambda m, r: None,
    "decaying": lambda m, r: 10.0 ** np.linspace(0, -6, m),
    "of low rank": lambda m, r: np.where(np.arange(m) < m // 8, 1.0 + r.random(m), 0.0),
    "one dominant": lambda m, r: np.where(np.arange(m) < 1, 1.0, 1e-3),
}


def with_spectrum(kind, m, n):
    r = np.random.default_rng(3)
    u, s, vh = np.linalg.svd(r.normal(size=(m, n)), full_matrices=False)
    wanted = SPECTRA[kind](m, r)
    return (u * (s if wanted is None else wanted)) @ vh


def iterated(x, table, safety):
    """The iteration in float64."""
    x = x / (np.linalg.norm(x) * safety)
    for a, b, c in table:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("kind", SPECTRA)
def test_cans_keeps_its_margin_in_half_precision_on_a_larger_matrix(kind):
    x = with_spectrum(kind, 128, 512)
    expected = iterated(x, NEWTON_SCHULZ_TABLES["cans"], NEWTON_SCHULZ_SAFETY["cans"])
    y = newton_schulz(jnp.asarray(x, jnp.float32), "cans", eps=0.0, dtype=jnp.bfloat16)
    error = np.linalg.norm(np.asarray(y, np.float64) - expected)
    assert error <= 0.15 * np.linalg.norm(expected)  # without the margin 2.2 where one value dominates


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("table", NEWTON_SCHULZ_TABLES)
def test_every_table_on_every_spectrum_in_every_precision(table, kind):
    x = with_spectrum(kind, 48, 192)
    expected = iterated(x, NEWTON_SCHULZ_TABLES[table], NEWTON_SCHULZ_SAFETY.get(table, 1))
    x32 = jnp.asarray(x, jnp.float32)

    def error(**options):
        y = newton_schulz(x32, table, eps=0.0, **options)
        return float(np.max(np.abs(np.asarray(y, np.float64) - expected)))

    plain, gram = error(gram=False), error(gram=True)
    assert plain <= 5e-3
    assert gram <= 3 * plain
    assert error(dtype=jnp.bfloat16) <= 0.15
    with jax.enable_x64(True):
        for form in (True, False):
            y = newton_schulz(jnp.asarray(x, jnp.float64), table, eps=0.0, gram=form)
            np.testing.assert_allclose(y, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 12), (12, 6), (3, 6, 12), (1, 4), (6, 6)])
def test_the_gram_form_is_the_standard_form(shape):
    x = normal(*shape)
    for table in ("keller", "cubic", "aol"):
        standard = newton_schulz(x, table, gram=False)
        np.testing.assert_allclose(newton_schulz(x, table, gram=True), standard, atol=3e-5)


def test_the_gram_form_is_chosen_where_it_pays_and_refused_where_it_diverges():
    def products(shape, platform="cpu", **options):
        """The number of products with the matrix itself."""
        traced = jax.jit(lambda x: newton_schulz(x, **options)).trace(jnp.zeros(shape))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        made = f"-> tensor<{shape[0]}x{shape[1]}xf32>"
        return sum("dot_general" in line and line.endswith(made) for line in text.splitlines())

    assert products((4, 7)) == 5
    assert products((4, 8)) == products((8, 4)) == 2
    assert products((4, 8), dtype=jnp.bfloat16) == 5
    for platform in ("cuda", "tpu"):  # by default their products have 10 and 8 bits
        assert products((4, 8), platform) == 5
        assert products((4, 8), platform, precision="highest") == 2
        assert products((4, 8), platform, gram=True) == 2
        with jax.default_matmul_precision("highest"):
            assert products((4, 8), platform) == 2
    for dtype in (jnp.bfloat16, jnp.float16):
        with pytest.raises(ValueError, match="gram"):
            newton_schulz(jnp.zeros((4, 8)), dtype=dtype, gram=True)


def test_matrices_of_one_shape_are_traced_once():
    x = [jnp.zeros((3, 5)), jnp.ones((3, 5))]
    text = str(jax.make_jaxpr(lambda x: [newton_schulz(y) for y in x])(x))
    assert text.count("dot_general[") == 15


def test_newton_schulz_dtypes():
    x = normal(8, 16)
    for dtype in (jnp.bfloat16, jnp.float16):
        y = newton_schulz(x.astype(dtype))
        assert y.dtype == dtype
        expected = newton_schulz(x.astype(dtype).astype(np.float32))
        np.testing.assert_array_equal(y, expected.astype(dtype))
    low = newton_schulz(x, dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, newton_schulz(x), atol=0.05)
    z = (normal(3, 5) + 1j * normal(3, 5, seed=1)).astype(np.complex64)
    np.testing.assert_allclose(newton_schulz(z, "quintic"), polar(z), atol=2e-5)
    with jax.enable_x64(True):
        y = newton_schulz(jnp.asarray(x, jnp.float64), "quintic", 12, eps=0.0)
        np.testing.assert_allclose(y, polar(x), atol=1e-12)


def test_newton_schulz_derivative():
    weights = np.arange(12.0).reshape(3, 4)
    with jax.enable_x64(True):
        x = normal(3, 4).astype(np.float64)
        f = jax.jit(lambda x: jnp.sum(newton_schulz(x, "quintic", 9) * weights))
        moved = np.concatenate([x + e * np.eye(12).reshape(12, 3, 4) for e in (1e-6, -1e-6)])
        values = jax.jit(jax.vmap(f))(moved)
        expected = (values[:12] - values[12:]) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.grad(f))(x).ravel(), expected, atol=1e-6)
    slope = jax.jit(jax.grad(lambda c: newton_schulz(normal(3, 4), c).sum()))
    assert np.isfinite(slope(jnp.array([2.0, -1.5, 0.5]))).all()


# Inverse roots.


def inverse_root(a, p, ridge=1e-6):
    w, v = np.linalg.eigh(np.asarray(a, np.float64))
    largest = w[-1] if w[-1] > 0 else 1.0
    return (v * (w + ridge * largest) ** (-1 / p)) @ v.T


@pytest.mark.parametrize("p", [1, 2, 4, 7])
@pytest.mark.parametrize("condition", [1, 1e4])
def test_inverse_root(p, condition):
    a = psd(12, condition).astype(np.float32)
    root, error = matrix_inverse_pth_root(a, p)
    expected = inverse_root(a, p)
    np.testing.assert_allclose(root, expected, atol=2e-7 * condition * np.abs(expected).max() + 1e-5)
    assert float(error) < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_inverse_root_is_homogeneous(scale):
    a = psd(5, 50).astype(np.float32)
    root, error = matrix_inverse_pth_root(a * np.float32(scale), 4)
    np.testing.assert_allclose(root * np.float32(scale) ** 0.25, inverse_root(a, 4), rtol=1e-3, atol=1e-4)
    assert float(error) < 1e-5


@pytest.mark.parametrize("p", [1, 2])
def test_inverse_root_of_singular_matrices(p):
    for a in (np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 0, 0]), np.zeros((1, 1))):
        root, error = matrix_inverse_pth_root(a.astype(np.float32), p, ridge_epsilon=1e-3)
        np.testing.assert_allclose(root, inverse_root(a, p, 1e-3), rtol=2e-3, atol=1e-2)
        assert float(error) < 1e-5
    root, error = matrix_inverse_pth_root(jnp.zeros((0, 0)), p)
    assert root.shape == (0, 0)
    assert float(error) == 0


def test_inverse_root_says_when_it_failed():
    root, error = matrix_inverse_pth_root(jnp.diag(jnp.array([1.0, -1.0])), 2)
    assert np.isfinite(root).all()
    assert float(error) > 0.1
    assert float(matrix_inverse_pth_root(psd(4, 1e3), 2, num_iters=1)[1]) > 0.1


@pytest.mark.parametrize("p", [1, 4])
def test_inverse_root_derivative(p):
    a = psd(4, 20)
    weights = np.arange(16.0).reshape(4, 4)
    with jax.enable_x64(True):
        f = jax.jit(lambda a: jnp.sum(matrix_inverse_pth_root(a, p, error_tolerance=1e-13)[0] * weights))
        slope = np.asarray(jax.jit(jax.grad(f))(jnp.asarray(a)))
        exact = lambda a: (inverse_root((a + a.T) / 2, p) * weights).sum()  # noqa: E731
        expected = [(exact(a + e) - exact(a - e)) / 2e-6 for e in 1e-6 * np.eye(16).reshape(16, 4, 4)]
        np.testing.assert_allclose(slope.ravel(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("a", [np.eye(3), np.zeros((3, 3)), np.ones((3, 3))])
def test_inverse_root_derivative_at_repeated_eigenvalues(a):
    slope = jax.jit(jax.grad(lambda a: matrix_inverse_pth_root(a, 2, ridge_epsilon=1e-3)[0].sum()))
    assert np.isfinite(slope(jnp.asarray(a, jnp.float32))).all()


def test_inverse_root_traced_arguments_and_vmap():
    a = np.stack([psd(4, 10, seed) for seed in range(3)]).astype(np.float32)
    expected = np.stack([matrix_inverse_pth_root(x, 3)[0] for x in a])
    np.testing.assert_allclose(jax.vmap(lambda x: matrix_inverse_pth_root(x, 3)[0])(a), expected, atol=1e-5)
    found, _ = jax.jit(matrix_inverse_pth_root)(a[0], 3, 100, 1e-6, 1e-6)
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    root, error = matrix_inverse_pth_root(a[0].astype(jnp.bfloat16), 3)
    assert root.dtype == jnp.bfloat16
    assert error.dtype == jnp.float32


# Power iteration.


@pytest.mark.parametrize("sign", [1, -1])
def test_power_iteration(sign):
    a = (sign * psd(20, 1e4)).astype(np.float32)
    value, vector = power_iteration(a)
    w, v = np.linalg.eigh(a.astype(np.float64))
    k = np.abs(w).argmax()
    assert float(value) == pytest.approx(w[k], rel=1e-5)
    assert abs(np.asarray(vector) @ v[:, k]) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_power_iteration_on_a_tree():
    a = psd(5, 100).astype(np.float32)

    def product(v):
        return {"a": a @ v["a"], "b": 2 * v["b"], "c": None}

    value, vector = power_iteration(product, v0={"a": jnp.ones(5), "b": jnp.array(0.1), "c": None})
    assert float(value) == pytest.approx(2, rel=1e-5)
    assert float(vector["b"]) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(vector["a"], 0, atol=1e-4)


def test_power_iteration_edges():
    value, vector = power_iteration(jnp.zeros((3, 3)), v0=jnp.array([3.0, 0, 4.0]))
    assert float(value) == 0
    np.testing.assert_allclose(vector, [0.6, 0, 0.8])
    value, vector = power_iteration(jnp.diag(jnp.array([1.0, 3.0])), v0=jnp.zeros(2))
    assert float(value) == pytest.approx(3)
    value, vector = power_iteration(jnp.zeros((0, 0)))
    assert float(value) == 0
    assert vector.shape == (0,)
    for scale in (1e-30, 1e30):
        value, _ = power_iteration(scale * jnp.diag(jnp.array([1.0, 3.0])))
        assert float(value) == pytest.approx(3 * scale, rel=1e-5)
    value, vector = power_iteration(jnp.diag(jnp.array([1.0, 3.0])), v0=jnp.ones(2), num_iters=0)
    assert float(value) == pytest.approx(2)


def test_power_iteration_stops_early_and_takes_keys():
    a = jnp.diag(jnp.array([1.0, 0.9]))
    rough, _ = power_iteration(a, error_tolerance=1e-2)
    fine, _ = power_iteration(a, num_iters=500)
    assert 1e-7 < abs(1 - float(rough)) < 1e-2
    assert abs(1 - float(fine)) < 1e-6
    other = power_iteration(a, key=jax.random.key(1), num_iters=0)[1]
    assert not np.allclose(other, power_iteration(a, num_iters=0)[1])


def test_power_iteration_derivatives():
    a = np.array([[2.0, 1.0, 0.0], [0.3, 3.0, 0.1], [0.2, 0.0, 1.0]])  # not symmetric
    with jax.enable_x64(True):
        f = functools.partial(power_iteration, num_iters=1000, error_tolerance=1e-14)

        def exact(a):
            w, v = np.linalg.eig(a)
            k = np.abs(w).argmax()
            v = v[:, k].real
            return np.append(v * np.sign(v[1]) / np.linalg.norm(v), w[k].real)

        def pair(a):
            value, v = f(a)
            return jnp.append(v * jnp.sign(v[1]), value)

        def by_function(a):
            value, v = f(lambda v: a @ v, v0=jnp.ones(3))
            return jnp.append(v * jnp.sign(v[1]), value)

        steps = 1e-6 * np.eye(9).reshape(9, 3, 3)
        expected = np.stack([(exact(a + e) - exact(a - e)) / 2e-6 for e in steps], -1)
        for g in (pair, by_function):
            backward = jax.jit(jax.jacrev(g))(jnp.asarray(a)).reshape(4, 9)
            np.testing.assert_allclose(backward, expected, atol=1e-7)
        forward = jax.jit(jax.jacfwd(pair))(jnp.asarray(a)).reshape(4, 9)
        np.testing.assert_allclose(forward, expected, atol=1e-7)


@pytest.mark.parametrize("a", [np.zeros((2, 2)), np.eye(2), np.diag([1.0, -1.0])])
def test_power_iteration_derivative_without_a_dominant_eigenvalue(a):
    slope = jax.jit(jax.grad(lambda a: power_iteration(a)[0]))(jnp.asarray(a, jnp.float32))
    assert np.isfinite(slope).all()


def test_power_iteration_dtypes_jit_and_vmap():
    a = np.stack([psd(4, 10, seed) for seed in range(3)]).astype(np.float32)
    values = [float(power_iteration(x)[0]) for x in a]
    np.testing.assert_allclose(jax.vmap(lambda x: power_iteration(x)[0])(a), values, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(power_iteration)(a[0])[0], values[0], rtol=1e-5)
    value, vector = power_iteration(a[0].astype(jnp.bfloat16), v0=np.ones(4, np.float32))
    assert value.dtype == vector.dtype == jnp.bfloat16
    value, vector = power_iteration(lambda v: v, v0=jnp.ones(2, jnp.float16), num_iters=jnp.int32(3))
    assert value.dtype == vector.dtype == jnp.float16


# Non-negative least squares.


def nnls_by_enumeration(a, b):
    """The best of all supports whose least squares solution is feasible, in float64."""
    best, answer = np.inf, None
    for bits in itertools.product([False, True], repeat=a.shape[1]):
        support = np.array(bits)
        x = np.zeros(a.shape[1])
        if support.any():
            x[support] = np.linalg.lstsq(a[:, support], b, rcond=None)[0]
        if (x >= -1e-12).all() and np.linalg.norm(a @ x - b) < best - 1e-12:
            best, answer = np.linalg.norm(a @ x - b), x
    return answer


@pytest.mark.parametrize("seed", range(8))
def test_nnls_by_enumeration(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=8)
    found = nnls(a.astype(np.float32), b.astype(np.float32), 300)
    np.testing.assert_allclose(found, nnls_by_enumeration(a, b), atol=1e-4)


def test_nnls_optimality_for_many_columns():
    a, b = np.abs(normal(60, 30)), normal(60, 4, seed=1)
    x = np.asarray(nnls(a, b, 2000), np.float64)
    assert x.shape == (30, 4)
    slope = a.T.astype(np.float64) @ (a @ x - b)
    assert (x >= 0).all()
    assert slope.min() > -5e-3
    assert np.abs(x * slope).max() < 5e-3
    np.testing.assert_allclose(nnls(a, b[:, 2], 2000), x[:, 2], atol=1e-3)


def test_nnls_converges_linearly_where_the_momentum_alone_would_not():
    a, b = normal(20, 10), normal(20, seed=1)
    exact = np.asarray(nnls(a, b, 3000))
    assert np.abs(np.asarray(nnls(a, b, 60)) - exact).max() < 1e-5


def test_nnls_edges():
    np.testing.assert_array_equal(nnls(jnp.zeros((2, 3)), jnp.ones(2), 5), np.zeros(3))
    np.testing.assert_array_equal(nnls(jnp.ones((2, 3)), jnp.ones(2), 0), np.zeros(3))
    assert nnls(jnp.zeros((0, 3)), jnp.zeros(0), 5).shape == (3,)
    assert nnls(jnp.zeros((3, 0)), jnp.zeros((3, 2)), 5).shape == (0, 2)
    a, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0])
    np.testing.assert_allclose(nnls(a, b, 1000, unroll=2, L=40.0), [0, 1.7], atol=1e-5)
    for scale in (1e-15, 1e15):
        np.testing.assert_allclose(nnls(scale * a, scale * b, 500), [0, 1.7], atol=1e-4)
    found = nnls(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), 500)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), [0, 1.7], atol=0.01)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = optax.nnls(a, b, 1000)
    np.testing.assert_allclose(nnls(a, b, 1000), expected, atol=1e-4)


def test_nnls_derivative_jit_and_vmap():
    a, b = normal(6, 3), normal(6, seed=1)
    x = np.asarray(nnls(a, b, 500))
    support = x > 0
    expected = np.zeros((3, 6))
    expected[support] = np.linalg.pinv(a[:, support])
    found = jax.jit(jax.jacobian(lambda b: nnls(a, b, 500)))(b)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.isfinite(jax.jit(jax.grad(lambda a: nnls(a, b, 20).sum()))(a)).all()
    batch = np.stack([b, -b])
    looped = np.stack([nnls(a, y, 100) for y in batch])
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda y: nnls(a, y, 100)))(batch), looped, atol=1e-5)


# Mistakes.

EYE = np.eye(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: newton_schulz(jnp.ones(3)), ValueError, ["'x'", "(..., m, n)", "float32[3]"]),
        (lambda: newton_schulz(jnp.ones((2, 2), int)), TypeError, ["'x'", "int32"]),
        (lambda: newton_schulz(EYE, "kelvin"), ValueError, ["keller", "'kelvin'"]),
        (lambda: newton_schulz(EYE, (1, 2)), ValueError, ["coefficients", "length 2"]),
        (lambda: newton_schulz(EYE, ()), ValueError, ["coefficients"]),
        (lambda: newton_schulz(EYE, 3.0), ValueError, ["coefficients", "3.0"]),
        (lambda: newton_schulz(EYE, "cubic", -1), ValueError, ["'steps' must be >= 0", "-1"]),
        (lambda: newton_schulz(EYE, "cubic", 2.5), TypeError, ["steps", "2.5"]),
        (lambda: newton_schulz(EYE, eps=-1), ValueError, ["'eps' must be >= 0", "-1"]),
        (lambda: newton_schulz(EYE, dtype=int), TypeError, ["dtype", "int"]),
        (lambda: matrix_inverse_pth_root(jnp.ones((2, 3)), 2), ValueError, ["(n, n)", "[2,3]"]),
        (lambda: matrix_inverse_pth_root(jnp.ones(3), 2), ValueError, ["'matrix'", "[3]"]),
        (lambda: matrix_inverse_pth_root(EYE, 0), ValueError, ["'p' must be >= 1", "0"]),
        (lambda: matrix_inverse_pth_root(EYE, 2.5), TypeError, ["'p'", "2.5"]),
        (lambda: matrix_inverse_pth_root(EYE, 2, -1), ValueError, ["'num_iters' must be >= 0"]),
        (lambda: matrix_inverse_pth_root(EYE, 2, ridge_epsilon=-1), ValueError, ["ridge_epsilon"]),
        (lambda: matrix_inverse_pth_root(EYE * 1j, 2), TypeError, ["real", "complex"]),
        (lambda: power_iteration(jnp.ones((2, 3))), ValueError, ["'matrix'", "[2,3]"]),
        (lambda: power_iteration(EYE, v0=jnp.ones(3)), ValueError, ["'v0'", "(2,)", "[3]"]),
        (lambda: power_iteration(lambda v: v), ValueError, ["'v0'", "None"]),
        (lambda: power_iteration(lambda v: v, v0={"a": 1}), TypeError, ["'a'", "1"]),
        (lambda: power_iteration(lambda v: v[:1], v0=jnp.ones(2)), ValueError, ["(2,)", "(1,)"]),
        (lambda: power_iteration(EYE, num_iters=1.5), TypeError, ["num_iters", "1.5"]),
        (lambda: power_iteration("a"), TypeError, ["'matrix'", "'a'"]),
        (lambda: nnls(jnp.ones(3), jnp.ones(3), 5), ValueError, ["'A'", "(m, n)", "[3]"]),
        (lambda: nnls(EYE, jnp.ones(3), 5), ValueError, ["'b'", "(2,)", "[3]"]),
        (lambda: nnls(EYE, jnp.ones(2, int), 5), TypeError, ["'b'", "int32"]),
        (lambda: nnls(EYE, jnp.ones(2), -5), ValueError, ["'iters' must be >= 0", "-5"]),
        (lambda: nnls(EYE, jnp.ones(2), 5, L=-1), ValueError, ["'L' must be >= 0", "-1"]),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
