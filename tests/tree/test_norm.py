import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree
from gradflow._rules._scaled_norm import scaled_norm
from gradflow.tree import _norm

TREE = {
    "a": jnp.array([[3.0, -4.0], [0.5, 2.0]]),
    "b": [jnp.array(-1.5), None],
    "c": jnp.zeros((0, 3)),
}


def exact(t, ord=2, squared=False):
    flat = [np.asarray(x).astype(np.complex128).ravel() for x in jax.tree.leaves(t)]
    value = np.linalg.norm(np.concatenate([*flat, np.zeros(1)]), ord)
    return value**2 if squared else value


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("ord", [None, 1, 2, np.inf, "inf"])
def test_values(ord, squared, mode):
    f = functools.partial(tree.norm, ord=ord, squared=squared)
    result = (jax.jit(f) if mode == "jit" else f)(TREE)
    wanted = exact(TREE, {None: 2, "inf": np.inf}.get(ord, ord), squared)
    np.testing.assert_allclose(result, wanted, rtol=3e-7)
    assert result.dtype == jnp.float32
    assert not result.weak_type


@pytest.mark.parametrize("ord", [None, 1, "inf"])
@pytest.mark.parametrize("empty", [{}, None, {"a": None}, [jnp.zeros((0,), jnp.bfloat16)]])
def test_an_empty_tree_has_norm_zero(empty, ord):
    result = tree.norm(empty, ord)
    assert result == 0
    assert result.dtype == jnp.float32
    assert result.shape == ()


SIZES = [1.2e-38, 1e-37, 1e-30, 1e-23, 1e-20, 9e-10, 1e-9, 1.0, 1e15, 1e19, 2e19, 1e25, 1e38]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_no_overflow_and_no_underflow(size, mapped):
    draw = np.random.default_rng(0).uniform(0.3, 1.0, 7)
    leaves = [jnp.asarray((size * part).astype(np.float32)) for part in (draw[:3], draw[3:])]
    leaves = [jnp.maximum(x, np.float32(1.2e-38)) for x in leaves]
    wanted = exact(leaves)
    if mapped:  # beside rows of other sizes
        rows = jax.tree.map(lambda x: jnp.stack([jnp.ones_like(x), x, jnp.zeros_like(x)]), leaves)
        result = jax.vmap(tree.norm)(rows)
        np.testing.assert_allclose(result, [np.sqrt(7), wanted, 0], rtol=3e-7)
    else:
        np.testing.assert_allclose(tree.norm(leaves), wanted, rtol=3e-7)


def test_sizes_far_apart():
    far = [jnp.full(3, 1e30), jnp.full(2, 1e-30), jnp.full(2, 300.0, jnp.float16)]
    np.testing.assert_allclose(tree.norm(far), exact(far), rtol=3e-7)
    np.testing.assert_allclose(tree.norm([*far[1:2], jnp.zeros(3)]), exact(far[1:2]), rtol=3e-7)


def test_a_subnormal_tree_has_a_norm_from_zero_to_its_own():
    # CPUs under XLA take subnormal numbers for zero; other devices do not.
    result = tree.norm(jnp.full(4, 1e-45))
    assert 0 <= result <= 4e-45
    assert np.isfinite(result)


def test_a_norm_out_of_range_is_infinite_and_nan_stays_nan():
    assert tree.norm(jnp.full(100, 1e38)) == np.inf
    assert tree.norm(jnp.array([1.0, -np.inf])) == np.inf
    assert np.isnan(tree.norm(jnp.array([np.nan, np.inf, 1.0])))
    assert np.isnan(tree.norm(jnp.array([np.nan, 1e-30])))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_leaves_are_measured_in_float32(dtype):
    leaf = jnp.full(1000, 300.0, dtype)
    result = tree.norm({"a": leaf})
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, exact(leaf), rtol=3e-7)
    tiny = jnp.full(3, jnp.finfo(dtype).tiny, dtype)
    np.testing.assert_allclose(tree.norm(tiny), exact(tiny), rtol=1e-6)


def test_float32_beside_float64_is_measured_in_float64():
    with jax.enable_x64(True):
        for narrow, wide in ((0.0, 0.0), (1e-30, 1e-40), (1e30, 1.0), (1.0, 1e200), (0.0, 1e-200)):
            t = [jnp.full(1, narrow, jnp.float32), jnp.full(1, wide, jnp.float64)]
            wanted = np.hypot(np.float64(np.float32(narrow)), wide)
            np.testing.assert_allclose(tree.norm(t), wanted, rtol=1e-15)
            assert all(np.isfinite(g).all() for g in jax.grad(tree.norm)(t))


def test_float64():
    with jax.enable_x64(True):
        for size in (3e-308, 1e-200, 1.0, 1e200, 1e307):
            leaf = jnp.full(4, size, jnp.float64)
            mixed = {"a": leaf, "b": jnp.ones(2, jnp.float32)}
            assert tree.norm(leaf).dtype == tree.norm(mixed).dtype == jnp.float64
            np.testing.assert_allclose(tree.norm(leaf), 2 * size, rtol=1e-15)
            np.testing.assert_allclose(tree.norm(mixed), np.hypot(2 * size, np.sqrt(2)), rtol=1e-15)


@pytest.mark.parametrize("size", [1.0, 1e25, 1e-25])
def test_complex_numbers(size):
    z = {"z": jnp.array([3 + 4j, 12j], jnp.complex64) * np.float32(size).astype(np.complex64)}
    for ord in (None, 1, np.inf):
        result = tree.norm(z, ord)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, exact(z, ord or 2), rtol=1e-6)


def test_integers():
    np.testing.assert_allclose(tree.norm([jnp.array([3, 4]), True]), np.sqrt(26), rtol=3e-7)


@pytest.mark.parametrize("size", [1.0, 1e25, 1e-25, 6e37])
def test_gradient_is_the_direction(size):
    x = jnp.array([3.0, -4.0]) * np.float32(size)
    np.testing.assert_allclose(jax.grad(tree.norm)(x), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(tree.norm, (x,), (x,))[1], 5 * size, rtol=1e-6)
    by_rows = jax.vmap(jax.grad(tree.norm))(jnp.stack([x, 0 * x]))
    np.testing.assert_allclose(by_rows, [[0.6, -0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("leaves", [1, 2])
def test_the_derivative_of_a_norm_that_is_nan_is_nan(leaves):
    x = jnp.array([np.nan, 1.0])
    assert np.isnan(jax.grad(lambda x: tree.norm([x] * leaves))(x)).all()
    assert np.isnan(jax.grad(lambda x: scaled_norm([x] * leaves)[0])(x)).all()


def test_only_a_norm_of_several_leaves_is_a_loop():
    """Loops of one leaf each would take longer to compile than branches, and longer to run."""
    for leaves in (0, 1, 2):
        text = jax.jit(tree.norm).lower([jnp.ones(3)] * leaves).as_text()
        assert text.count("stablehlo.while") == (leaves > 1)


def test_derivatives_of_mixed_and_complex_trees_are_finite():
    mixed = {"h": jnp.ones(2, jnp.bfloat16), "z": jnp.array([3 + 4j]), "n": None}
    gradient = jax.grad(tree.norm)(mixed)
    assert gradient["h"].dtype == jnp.bfloat16
    # jax's convention: the gradient of a real function of z is conjugated.
    np.testing.assert_allclose(gradient["z"], [(3 - 4j) / np.sqrt(27)], rtol=1e-6)
    for zeros in (tree.zeros_like(mixed), {"a": jnp.zeros(3)}, jnp.zeros(())):
        for ord in (None, 1, "inf"):
            gradient = jax.grad(functools.partial(tree.norm, ord=ord))(zeros)
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert (jax.grad(tree.norm)(jnp.zeros(3)) == 0).all()


def test_second_derivative():
    x = np.array([3.0, 4.0])
    wanted = (np.eye(2) - np.outer(x, x) / 25) / 5
    np.testing.assert_allclose(jax.hessian(tree.norm)(jnp.array([3.0, 4.0])), wanted, rtol=1e-5)
    assert np.isfinite(jax.hessian(tree.norm)(jnp.zeros(2))).all()


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA of jaxlib 0.8.1 writes out squares, then adds"
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_leaf_is_copied(dtype):
    big = [jnp.ones((256, 256), dtype) for _ in range(4)]
    scratch = jax.jit(tree.norm).lower(big).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 4096
    # The control: this one needs a copy of a leaf.
    control = jax.jit(lambda t: tree.norm(jnp.sort(t[0], axis=0)))
    assert control.lower(big).compile().memory_analysis().temp_size_in_bytes > 65536


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize(
    ("scale", "readings"), [(1.0, 1), (1e15, 1), (np.nan, 1), (1e-25, 2), (1e25, 2), (0.0, 2), (np.inf, 2)]
)
def test_ordinary_trees_are_read_once(in_a_loop, scale, readings, monkeypatch):
    shifts = []
    sum_over = _norm._sum_over
    monkeypatch.setattr(_norm, "_sum_over", lambda *args: shifts.append(args[-1]) or sum_over(*args))
    with jax.disable_jit():  # so that the loop is one of Python
        root, factor = _norm._read_twice(((),), in_a_loop, [[jnp.full(3, scale)]])
    assert len(shifts) == readings
    np.testing.assert_allclose(float(root) * float(factor), scale * 3**0.5, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e25, 1e-25, 0.0])
def test_named_axes(scale):
    x = jnp.arange(12.0).reshape(4, 3) * np.float32(scale)
    for ord in (None, 1, np.inf):
        f = functools.partial(tree.norm, ord=ord, axis_name="i")
        result = jax.vmap(f, axis_name="i")(x)
        np.testing.assert_allclose(result, np.full(4, exact(x, ord or 2)), rtol=1e-6)
    two = jax.vmap(jax.vmap(lambda v: tree.norm(v, axis_name=("i", "j")), axis_name="j"), axis_name="i")
    np.testing.assert_allclose(two(x[:, :, None]), np.full((4, 3), exact(x)), rtol=1e-6)


def test_mistakes():
    with pytest.raises(ValueError, match=r"tree.norm: argument 'ord' must be None, 1, 2 or inf; got 3"):
        tree.norm(TREE, 3)
    with pytest.raises(TypeError, match=r"'k' of argument 'tree' must be an array of numbers; got key"):
        tree.norm({"k": jax.random.key(0)})
    with pytest.raises(TypeError, match=r"'a' of argument 'tree' must be an array of numbers; got float32"):
        tree.norm({"a": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_eager_calls_compile_once(count_compiles):
    tree.norm(TREE)
    other = [jnp.ones(11)]
    with count_compiles() as compiles:
        for _ in range(3):
            tree.norm(TREE)
        assert compiles() == 0
        tree.norm(other)
        assert compiles() == 1


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_the_norm_of_constants_inside_a_program(size: float) -> None:
    """The compiler folds what it knows; it must not square the factor that keeps squares in range."""
    leaf = jnp.full(4, size, jnp.float32)
    for norm in (tree.norm, lambda x: tree.norm(tree.sub(x, jnp.zeros_like(x)))):
        np.testing.assert_allclose(jax.jit(lambda n, norm=norm: n * norm(leaf))(1.0), 2 * size, rtol=1e-6)
