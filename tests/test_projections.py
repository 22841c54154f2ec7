"""Projections: feasible, nearest, idempotent, with the derivatives of the map itself."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from gradflow import projections as P  # noqa: N812

few = hypothesis.settings(deadline=None, derandomize=True, max_examples=40, database=None)
numbers = st.floats(-10, 10, width=32, allow_subnormal=False)
vectors = hnp.arrays(np.float32, 6, elements=numbers)
A = np.array([1.0, -2.0, 0.0, 0.5, 3.0, -1.0], np.float32)
# The third row is the sum of the others: the rank is two.
ROWS = np.array([[1.0, 2, 0, -1, 0, 0.5], [0, 1, 1, 0, -2, 1], [1, 3, 1, -1, -2, 1.5]], np.float32)
RIGHT = np.array([1.0, -0.5, 0.5], np.float32)
LOWER = np.array([-1.0, -np.inf, -3, 0, -1, -2], np.float32)
SUMS = np.array([1.25, 0.75], np.float32), np.array([0.5, 0.5, 1.0], np.float32)


def _sums(plan):
    return np.concatenate([plan.sum(1), plan.sum(0)])


# name: the function of one tree, the norm-like measure that describes the set, and its bound.
BALLS = {
    "l1_ball": lambda x: np.abs(x).sum(),
    "l2_ball": lambda x: np.sqrt((x**2).sum()),
    "linf_ball": lambda x: np.abs(x).max(),
}
CONVEX = {
    "non_negative": (P.projection_non_negative, lambda p: p.min() >= 0),
    "box": (lambda x: P.projection_box(x, -1.0, 2.0), lambda p: p.min() >= -1 and p.max() <= 2),
    "hypercube": (P.projection_hypercube, lambda p: p.min() >= 0 and p.max() <= 1),
    "simplex": (
        lambda x: P.projection_simplex(x, 2.0),
        lambda p: p.min() >= 0 and abs(p.sum() - 2) < 1e-5,
    ),
    "l1_ball": (lambda x: P.projection_l1_ball(x, 2.0), lambda p: np.abs(p).sum() <= 2 + 1e-5),
    "l2_ball": (lambda x: P.projection_l2_ball(x, 2.0), lambda p: np.linalg.norm(p) <= 2 + 1e-5),
    "linf_ball": (lambda x: P.projection_linf_ball(x, 2.0), lambda p: np.abs(p).max() <= 2),
    "halfspace": (
        lambda x: P.projection_halfspace(x, jnp.asarray(A), 1.0),
        lambda p: A @ p <= 1 + 1e-4,
    ),
    "hyperplane": (
        lambda x: P.projection_hyperplane(x, jnp.asarray(A), 1.0),
        lambda p: abs(A @ p - 1) < 1e-4,
    ),
    "affine_set": (
        lambda x: P.projection_affine_set(x, jnp.asarray(ROWS, x.dtype), jnp.asarray(RIGHT, x.dtype)),
        lambda p: np.abs(ROWS @ p - RIGHT).max() < 1e-4,
    ),
    "box_section": (
        lambda x: P.projection_box_section(x, LOWER, 2.0, jnp.asarray(A, x.dtype), 1.0),
        lambda p: abs(A @ p - 1) < 1e-4 and (p >= LOWER).all() and p.max() <= 2,
    ),
    "vector": (
        lambda x: P.projection_vector(x, jnp.asarray(A)),
        lambda p: np.linalg.norm(p - A * (A @ p) / (A @ A)) < 1e-4,
    ),
}
SPHERES = {
    "l1_sphere": (lambda x: P.projection_l1_sphere(x, 2.0), lambda p: np.abs(p).sum()),
    "l2_sphere": (lambda x: P.projection_l2_sphere(x, 2.0), lambda p: np.linalg.norm(p)),
}
ALL = {name: f for name, (f, _) in (CONVEX | SPHERES).items()}


@functools.cache
def compiled(name):
    return jax.jit(ALL[name])


@functools.cache
def jacobians(name):
    return jax.jit(lambda x: (ALL[name](x), jax.jacrev(ALL[name])(x), jax.jacfwd(ALL[name])(x)))


def run(name, x):
    return np.asarray(compiled(name)(jnp.asarray(x)), np.float64)


@pytest.mark.parametrize("name", CONVEX)
@few
@hypothesis.given(x=vectors, z=vectors)
def test_projection_is_feasible_idempotent_and_nearest(name, x, z):
    feasible = CONVEX[name][1]
    p, q = run(name, x), run(name, z)
    assert feasible(p)
    np.testing.assert_allclose(run(name, p.astype(np.float32)), p, atol=2e-5)
    # The variational inequality: no feasible point lies on the far side of p.
    assert (x - p) @ (q - p) <= 2e-4 * (1 + np.abs(x).max())


@pytest.mark.parametrize("name", SPHERES)
@few
@hypothesis.given(x=vectors, z=vectors)
def test_sphere_is_reached_at_the_nearest_point(name, x, z):
    measure = SPHERES[name][1]
    p, q = run(name, x), run(name, z)
    assert abs(measure(p) - 2) < 1e-5
    np.testing.assert_allclose(run(name, p.astype(np.float32)), p, atol=1e-5)
    for other in (q, -q, -p):
        assert np.linalg.norm(x - p) <= np.linalg.norm(x - other) + 1e-4


@few
@hypothesis.given(x=vectors, scale=st.floats(0, 20, width=32, allow_subnormal=False))
def test_simplex_agrees_with_bisection(x, scale):
    low, high = x.min() - scale - 1.0, float(x.max())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(x - middle, 0).sum() > scale else (low, middle)
    expected = np.maximum(x.astype(np.float64) - high, 0)
    found = jax.jit(P.projection_simplex)(jnp.asarray(x), jnp.float32(scale))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("scale", [0, 0.5, 1e3])
def test_balls_keep_what_is_inside(name, scale):
    x = np.array([0.3, -0.4, 2.0], np.float32)
    p = np.asarray(getattr(P, f"projection_{name}")(jnp.asarray(x), scale))
    if BALLS[name](x) <= scale:
        np.testing.assert_array_equal(p, x)
    else:
        np.testing.assert_allclose(BALLS[name](p), scale, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_tree_is_one_long_vector(name):
    x = np.array([0.5, 3.0, -2.0, 0.1, 1.0, -0.2], np.float32)

    def tree(v):
        return {"a": v[0], "b": [v[1:5].reshape(2, 2), None, v[5:]], "c": v[:0]}

    if name in ("halfspace", "hyperplane", "vector"):
        f = getattr(P, f"projection_{name}")
        rest = () if name == "vector" else (1.0,)
        found = f(tree(jnp.asarray(x)), tree(jnp.asarray(A)), *rest)
    elif name == "affine_set":
        found = P.projection_affine_set(tree(jnp.asarray(x)), ROWS, RIGHT)
    elif name == "box_section":
        found = P.projection_box_section(tree(jnp.asarray(x)), tree(LOWER), 2.0, tree(jnp.asarray(A)), 1.0)
    else:
        found = ALL[name](tree(jnp.asarray(x)))
    assert jax.tree.structure(found) == jax.tree.structure(tree(jnp.asarray(x)))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
    np.testing.assert_allclose(flat, run(name, x), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_jit_and_vmap_change_nothing(name):
    xs = np.asarray(jax.random.normal(jax.random.key(0), (5, 6)) * 3)
    looped = np.stack([ALL[name](jnp.asarray(x)) for x in xs])
    np.testing.assert_allclose(jax.jit(jax.vmap(ALL[name]))(xs), looped, atol=2e-6)
    np.testing.assert_allclose(compiled(name)(xs[0]), looped[0], atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_agree_with_finite_differences(name):
    x = np.array([0.61, 2.73, -1.9, 0.13, 1.27, -0.37])
    with jax.enable_x64(True):
        moved = jnp.asarray(x + 1e-6 * np.concatenate([np.eye(6), -np.eye(6)]))
        f = jax.jit(jax.vmap(ALL[name]))(moved)
        expected = (f[:6] - f[6:]).T / 2e-6
        _, backward, forward = jacobians(name)(jnp.asarray(x))
        np.testing.assert_allclose(backward, expected, atol=1e-6)
        np.testing.assert_allclose(forward, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere"])
def test_derivative_in_scale(name):
    f = jax.jit(getattr(P, f"projection_{name}"))
    with jax.enable_x64(True):
        point, scale = jnp.array([0.61, 2.73, -1.9]), jnp.float64(1.3)
        expected = (f(point, scale + 1e-6) - f(point, scale - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.jacrev(f, 1))(point, scale), expected, atol=1e-6)


def test_derivatives_in_the_normal_and_the_offset():
    with jax.enable_x64(True):
        x, a = jnp.array([0.61, 2.73, -1.9]), np.array([1.0, -2.0, 0.5])
        for f in (P.projection_hyperplane, P.projection_halfspace):
            g = jax.jit(functools.partial(f, -x))
            columns = [(g(a + e, 1.0) - g(a - e, 1.0)) / 2e-6 for e in 1e-6 * np.eye(3)]
            slope = (g(a, 1 + 1e-6) - g(a, 1 - 1e-6)) / 2e-6
            found = jax.jit(jax.jacrev(g, (0, 1)))(jnp.asarray(a), 1.0)
            np.testing.assert_allclose(found[0], np.stack(columns, 1), atol=1e-6)
            np.testing.assert_allclose(found[1], slope, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "x",
    [
        np.zeros(6),
        np.full(6, 2.0),
        np.array([2.0, 0, 0, 0, 0, 0]),
        np.array([1.0, 1.0, 0, 0, 0, 0]),
        np.full(6, 1e-45),
        np.full(6, 1e30),
    ],
    ids=["zero", "even", "vertex", "edge", "tiny", "large"],
)
def test_kinks_have_finite_values_and_derivatives(name, x):
    for found in jacobians(name)(jnp.asarray(x, jnp.float32)):
        assert np.isfinite(found).all()


def test_boundary_counts_as_inside():
    x = jnp.array([0.0, 1.0, 0.5])
    for f in (P.projection_hypercube, P.projection_non_negative, P.projection_linf_ball):
        np.testing.assert_array_equal(jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(x), 1)
    on = jnp.array([0.5, 0.0])
    for f in (P.projection_l2_ball, P.projection_l1_ball):
        np.testing.assert_array_equal(jax.jit(jax.jacobian(f))(on, 0.5), np.eye(2))


def test_centre_of_a_sphere():
    np.testing.assert_allclose(P.projection_l2_sphere(jnp.zeros(4), 2.0), np.full(4, 1.0))
    assert not jax.jit(jax.jacobian(P.projection_l2_sphere))(jnp.zeros(4)).any()
    np.testing.assert_allclose(P.projection_l1_sphere(jnp.zeros(4), 2.0), np.full(4, 0.5))
    # A zero element is moved as well, or the point would not be on the sphere.
    expected = [1 / 3, -1.3 / 3, 0.7 / 3]
    found = P.projection_l1_sphere(jnp.array([0.1, -0.2, 0.0]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zero_normals():
    x, zero = jnp.array([1.0, 2.0]), jnp.zeros(2)
    np.testing.assert_array_equal(P.projection_hyperplane(x, zero, 1.0), x)
    np.testing.assert_array_equal(P.projection_halfspace(x, zero, -1.0), x)
    np.testing.assert_array_equal(P.projection_vector(x, zero), 0)
    for f in (P.projection_hyperplane, P.projection_halfspace):
        for slope in jax.jit(jax.jacobian(f, (0, 1, 2)))(x, zero, 1.0):
            assert np.isfinite(slope).all()


def test_extreme_scales():
    huge, small = jnp.array([3e38, 3e38]), jnp.array([3e-30, 4e-30])
    np.testing.assert_allclose(P.projection_l2_ball(huge), np.sqrt([0.5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(P.projection_l2_sphere(small), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(P.projection_simplex(huge), [0.5, 0.5])
    np.testing.assert_allclose(P.projection_l1_ball(huge), [0.5, 0.5])
    np.testing.assert_allclose(P.projection_vector(jnp.array([1.0, 2.0]), small), [1.32, 1.76])
    near = jnp.array([1e8, 1e8 + 8, 0.0])
    np.testing.assert_allclose(P.projection_simplex(near, 10.0), [1.0, 9.0, 0.0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ALL)
def test_dtypes_come_back_and_arithmetic_is_wide(name, dtype):
    x = jnp.array([0.5, 3.0, -2.0, 0.125, 1.0, -0.25], dtype)
    found = ALL[name](x)
    assert found.dtype == dtype
    assert found.weak_type is False
    wide = ALL[name](x.astype(jnp.float32))
    np.testing.assert_allclose(found.astype(jnp.float32), wide.astype(dtype).astype(jnp.float32), atol=1e-7)


def test_float16_norms_do_not_overflow():
    x = jnp.full(100, 300.0, jnp.float16)
    np.testing.assert_allclose(P.projection_l2_ball(x), np.full(100, 0.1), rtol=1e-3)
    mixed = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    found = P.projection_simplex(mixed)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [jnp.bfloat16, jnp.float32]
    found = P.projection_hyperplane(mixed, jax.tree.map(jnp.ones_like, mixed), 2.0)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("empty", [{}, None, {"a": None}, {"a": np.zeros((0, 3), np.float32)}])
def test_empty_trees(empty):
    for name in ("non_negative", "hypercube", "simplex", "l1_ball", "l1_sphere", "linf_ball"):
        found = getattr(P, f"projection_{name}")(empty)
        assert jax.tree.structure(found) == jax.tree.structure(empty)
    for name in ("l2_ball", "l2_sphere"):
        assert jax.tree.map(np.shape, getattr(P, f"projection_{name}")(empty)) == jax.tree.map(
            np.shape, empty
        )
    P.projection_vector(empty, empty)
    P.projection_hyperplane(empty, empty, 1.0)
    found = P.projection_affine_set(empty, jnp.zeros((2, 0)), jnp.ones(2))
    assert jax.tree.structure(found) == jax.tree.structure(empty)


def test_python_numbers_are_leaves():
    found = P.projection_simplex({"w": jnp.array([2.5, 3.2]), "b": 0.5})
    np.testing.assert_allclose(found["w"], [0.15, 0.85], atol=1e-6)
    assert found["b"].dtype == jnp.float32
    assert float(P.projection_non_negative(-1.5)) == 0


def test_bounds_may_be_trees_and_none():
    x = {"a": jnp.array([[-3.0, 3.0]]), "b": jnp.array(5.0), "c": None}
    lower = {"a": jnp.array([[-1.0, 0.0]]), "b": None, "c": None}
    upper = {"a": 2, "b": np.float32(4), "c": None}
    found = P.projection_box(x, lower, upper)
    np.testing.assert_array_equal(found["a"], [[-1, 2]])
    assert found["b"] == 4
    assert found["c"] is None
    np.testing.assert_array_equal(P.projection_box(x["a"], None, np.array([1.0])), [[-3, 1]])
    np.testing.assert_array_equal(P.projection_hypercube(x["a"], jnp.array([[1.0, 2.0]])), [[0, 2]])


@pytest.mark.parametrize("name", sorted(n for n in dir(optax.projections) if "projection_" in n))
def test_second_witness(name):
    x, a = jnp.array([0.61, 2.73, -1.9]), jnp.array([1.0, -2.0, 0.5])
    rest = {"box": (-1.0, 2.0), "hyperplane": (a, 1.0), "halfspace": (a, -9.0), "vector": (a,)}
    arguments = rest.get(name.removeprefix("projection_"), ())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = getattr(optax.projections, name)(x, *arguments)
    np.testing.assert_allclose(getattr(P, name)(x, *arguments), expected, atol=1e-6)


X = {"a": jnp.ones(2), "b": jnp.ones(3)}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: P.projection_simplex({"w": jnp.arange(3)}), TypeError, ["simplex", "'w'", "int32"]),
        (lambda: P.projection_l2_ball(jnp.ones(2, jnp.complex64)), TypeError, ["l2_ball", "complex64"]),
        (lambda: P.projection_l2_ball({"a": "x"}), TypeError, ["'a'", "'x'"]),
        (lambda: P.projection_l1_ball(X, -1), ValueError, ["l1_ball", "'scale' must be >= 0", "-1"]),
        (lambda: P.projection_l1_ball(X, np.nan), ValueError, ["'scale' must be >= 0", "nan"]),
        (lambda: P.projection_l1_ball(X, jnp.ones(2)), TypeError, ["scale", "float32[2]"]),
        (lambda: P.projection_l1_ball(X, None), TypeError, ["scale", "None"]),
        (lambda: P.projection_box(X, 2, 1), ValueError, ["box", "2 and 1", "at 'a'"]),
        (lambda: P.projection_box(X, {"a": 1}, 2), ValueError, ["'lower'", "b"]),
        (lambda: P.projection_box(X, 0, {"a": 1, "b": "s"}), TypeError, ["'upper'", "'b'"]),
        (lambda: P.projection_box(X, 0, {"a": jnp.ones(3), "b": 1}), ValueError, ["'a'", "(2,)"]),
        (lambda: P.projection_hypercube(X, {"b": 1}), ValueError, ["hypercube", "'scale'"]),
        (lambda: P.projection_vector(X, {"a": jnp.ones(2)}), ValueError, ["vector", "'a'", "b"]),
        (lambda: P.projection_vector(X, X | {"b": jnp.ones(2)}), ValueError, ["'b'", "(3,)", "(2,)"]),
        (lambda: P.projection_halfspace(X, X, jnp.ones(2)), TypeError, ["'b'", "float32[2]"]),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["l1_ball", "l2_ball", "linf_ball"])
def test_a_ball_without_a_limit_is_everything(name):
    f = getattr(P, f"projection_{name}")
    x = jnp.array([1.0, -5.0])
    np.testing.assert_array_equal(f(x, jnp.inf), x)
    np.testing.assert_array_equal(jax.jacobian(f)(x, jnp.inf), np.eye(2))


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball"])
def test_traced_negative_scale_and_nan_are_not_hidden(name):
    f = jax.jit(getattr(P, f"projection_{name}"))
    assert np.isnan(f(jnp.array([1.0, 5.0]), jnp.float32(-1))).any()
    assert np.isnan(f(jnp.array([1.0, jnp.nan]), jnp.float32(1))).any()


# Axes: each vector separately.

BY_AXIS = {
    "simplex": lambda x, axis: P.projection_simplex(x, 2.0, axis=axis),
    "l1_ball": lambda x, axis: P.projection_l1_ball(x, 2.0, axis=axis),
    "l1_sphere": lambda x, axis: P.projection_l1_sphere(x, 2.0, axis=axis),
    "l2_ball": lambda x, axis: P.projection_l2_ball(x, 2.0, axis=axis),
    "l2_sphere": lambda x, axis: P.projection_l2_sphere(x, 2.0, axis=axis),
    "hyperplane": lambda x, axis: P.projection_hyperplane(x, normal(axis), 1.0, axis=axis),
    "halfspace": lambda x, axis: P.projection_halfspace(x, normal(axis), 1.0, axis=axis),
    "vector": lambda x, axis: P.projection_vector(x, normal(axis), axis=axis),
    "affine_set": lambda x, axis: P.projection_affine_set(x, ROWS, RIGHT, axis=axis),
    "box_section": lambda x, axis: P.projection_box_section(
        x, lower(axis), 2.0, normal(axis), 1.0, axis=axis
    ),
    "transport": lambda x, axis: P.projection_transport(x, *SUMS, axis=axis or (-2, -1)),
}


def normal(axis):
    """`A` for vectors along an axis, which broadcasts to a batch of two by two of them."""
    return jnp.asarray(A) if axis is None else jnp.asarray(A.reshape(np.where(axes_of(axis), [2, 3, 1], 1)))


def lower(axis):
    return LOWER if axis is None else LOWER.reshape(np.where(axes_of(axis), [2, 3, 1], 1))


def axes_of(axis):
    return [place in (axis if isinstance(axis, tuple) else (axis,)) for place in range(3)]


@pytest.mark.parametrize("name", BY_AXIS)
def test_vectors_along_axes_are_projected_separately(name):
    x = 2 * np.asarray(jax.random.normal(jax.random.key(3), (2, 3, 4)))
    found = BY_AXIS[name](jnp.asarray(x), (0, 1))
    for k in range(4):
        one = x[:, :, k] if name == "transport" else x[:, :, k].ravel()
        alone = BY_AXIS[name](jnp.asarray(one), None)
        np.testing.assert_allclose(found[:, :, k].ravel(), np.ravel(alone), atol=2e-6)


def test_an_axis_counts_from_the_end_and_keeps_leaves_apart():
    tree = {"a": jnp.array([[3.0, 1.0], [0.0, 5.0]]), "b": jnp.zeros((0, 4)), "c": None}
    found = P.projection_simplex(tree, axis=-1)
    np.testing.assert_array_equal(found["a"], [[1, 0], [0, 1]])
    assert found["b"].shape == (0, 4)
    both = P.projection_birkhoff(jnp.stack([jnp.eye(3), jnp.full((3, 3), 7.0)]).astype(jnp.bfloat16))
    assert both.dtype == jnp.bfloat16
    third = jnp.asarray(1 / 3, jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(both.astype(jnp.float32), [np.eye(3), np.full((3, 3), third)])


# Independent references in float64.


def test_affine_sets_agree_with_least_squares():
    with jax.enable_x64(True):
        rows, x = ROWS.astype(float), np.linspace(-3, 3, 6)
        # Without a point that satisfies all rows, those with the least error are the set.
        for right in (RIGHT.astype(float), np.array([1.0, 2.0, -4.0])):
            expected = x - np.linalg.lstsq(rows, rows @ x - right, rcond=1e-10)[0]
            np.testing.assert_allclose(
                P.projection_affine_set(jnp.asarray(x), rows, right), expected, atol=1e-13
            )


@few
@hypothesis.given(x=hnp.arrays(np.float64, 6, elements=numbers), b=st.floats(-8, 8))
def test_box_sections_agree_with_bisection(x, b):
    a, low, high = A.astype(float), LOWER.astype(float), 2.0
    left, right = -1e3, 1e3
    for _ in range(200):
        middle = (left + right) / 2
        left, right = (middle, right) if a @ np.clip(x - middle * a, low, high) > b else (left, middle)
    expected = np.clip(x - right * a, low, high)
    with jax.enable_x64(True):
        found = P.projection_box_section(jnp.asarray(x), low, high, jnp.asarray(a), b)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_an_empty_section_is_nan():
    x, ones = jnp.zeros(3), jnp.ones(3)
    assert np.isnan(P.projection_box_section(x, 0.0, 1.0, ones, 3.5)).all()
    np.testing.assert_array_equal(P.projection_box_section(x, 0.0, 1.0, ones, 3.0), 1)
    np.testing.assert_array_equal(P.projection_box_section(x, 0.0, 1.0, ones, 0.0), 0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_no_vertex_of_the_polytope_lies_beyond_a_plan(scale):
    """`<X - P, Q - P> <= 0` for every Q of the set: it is enough to look at the best vertex."""
    size = 30
    x = scale * np.random.default_rng(size).normal(size=(size, size))
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-13)):
        with jax.enable_x64(True):
            p = np.asarray(P.projection_birkhoff(jnp.asarray(x, dtype)), float)
        unit = max(1.0, np.abs(x).max())
        assert p.min() >= 0
        assert np.abs(_sums(p) - 1).max() <= tolerance * unit
        best = optimize.linear_sum_assignment(p - x)
        assert (x - p)[best].sum() - ((x - p) * p).sum() <= size * tolerance * unit


def test_plans_satisfy_the_conditions_of_a_quadratic_program():
    rng = np.random.default_rng(0)
    x, rows, columns = rng.normal(size=(4, 6)), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6))
    columns[0], columns[1] = 0, columns[0] + columns[1]
    with jax.enable_x64(True):
        p = np.asarray(P.projection_transport(jnp.asarray(x), rows, columns))
    sums = np.stack([np.outer(np.eye(4)[i], np.ones(6)).ravel() for i in range(4)] + [
        np.outer(np.ones(4), np.eye(6)[j]).ravel() for j in range(6)
    ])  # fmt: skip
    vertex = optimize.linprog((p - x).ravel(), A_eq=sums, b_eq=np.concatenate([rows, columns]))
    assert p.min() >= 0
    np.testing.assert_allclose(sums @ p.ravel(), np.concatenate([rows, columns]), atol=1e-14)
    assert ((p - x) * p).sum() - vertex.fun <= 1e-12


def test_derivatives_of_plans():
    """In the matrix and the sums, in both modes; at kinks they are finite."""
    x = np.array([[0.61, 2.73, -1.9], [0.13, 1.27, -0.37]])
    rows, columns = np.array([1.25, 0.75]), np.array([0.25, 0.75, 1.0])

    def plan(v):
        # What moves the rows moves the last column, so that the sums stay equal.
        right = jnp.concatenate([v[8:], v[6:8].sum(keepdims=True) - v[8:].sum(keepdims=True)])
        return P.projection_transport(v[:6].reshape(2, 3), v[6:8], right).ravel()

    with jax.enable_x64(True):
        v = np.concatenate([x.ravel(), rows, columns[:2]])

        @jax.jit
        def all_of_it(v):
            p, push = jax.linearize(plan, v)  # one solution for all directions
            pull = jax.linear_transpose(push, v)
            return p, jax.vmap(pull)(jnp.eye(6))[0], jax.vmap(push, out_axes=1)(jnp.eye(10))

        moved = [(all_of_it(v + e)[0] - all_of_it(v - e)[0]) / 2e-6 for e in 1e-6 * np.eye(10)]
        _, backward, forward = all_of_it(v)
        np.testing.assert_allclose(backward, np.stack(moved, 1), atol=1e-8)
        np.testing.assert_allclose(forward, np.stack(moved, 1), atol=1e-8)
        for kink in (np.zeros(6), np.full(6, 1e30), np.eye(6)[0], np.full(6, 1e-300)):
            for found in all_of_it(np.concatenate([kink, v[6:]])):
                assert np.isfinite(found).all()


def test_sums_that_do_not_fit():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="'rows' and 'columns' must have the same sum; got 2 and 3"):
        P.projection_transport(x, [1.0, 1.0], [1.0, 1.0, 1.0])
    assert np.isnan(P.projection_transport(x, jnp.ones(2), jnp.ones(3))).all()
    assert np.isnan(P.projection_transport(x, jnp.array([-1.0, 4.0]), jnp.ones(3))).all()


@pytest.mark.parametrize("project", [P.projection_simplex, P.projection_l1_ball, P.projection_l1_sphere])
def test_a_nan_among_thousands_of_numbers_shows(project):
    """XLA's maximum on a CPU leaves it out."""
    assert np.all(np.isnan(project(jnp.ones((64, 64)).at[3, 4].set(jnp.nan))))
