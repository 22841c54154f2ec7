import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree

F16, BF16, F32 = jnp.float16, jnp.bfloat16, jnp.float32
X = {"a": jnp.array([1.5, -2.0, 0.25]), "b": [jnp.array(3.0), None], "e": jnp.zeros((0, 2))}
Y = {"a": jnp.array([0.5, 4.0, -1.0]), "b": [jnp.array(-2.0), None], "e": jnp.zeros((0, 2))}

BINARY = {
    "add": (tree.add, np.add),
    "sub": (tree.sub, np.subtract),
    "mul": (tree.mul, np.multiply),
    "div": (tree.div, np.divide),
    "add_scale": (lambda x, y: tree.add_scale(x, 0.5, y), lambda x, y: x + 0.5 * y),
    "where": (lambda x, y: tree.where(jnp.array(False), x, y), lambda x, y: y),
}
UNARY = {
    "scale": (lambda x: tree.scale(-3.0, x), lambda x: -3.0 * x),
    "clip": (lambda x: tree.clip(x, -1.0, 1.0), lambda x: np.clip(x, -1.0, 1.0)),
    "clip below": (lambda x: tree.clip(x, min_value=0.0), lambda x: np.maximum(x, 0)),
    "clip not": (tree.clip, lambda x: x),
    "conj": (tree.conj, np.conj),
    "real": (tree.real, np.real),
}


def assert_equal(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(np.asarray(g), w, rtol=1e-6), got, wanted)
    assert not any(x.weak_type for x in jax.tree.leaves(got))


def in64(f, *trees):
    return jax.tree.map(lambda *xs: f(*(np.asarray(x, np.float64) for x in xs)), *trees)


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("name", [*BINARY, *UNARY])
def test_values(name, mode):
    f, reference = (BINARY | UNARY)[name]
    trees = (X, Y) if name in BINARY else (X,)
    wanted = in64(reference, *trees)
    if mode == "jit":
        assert_equal(jax.jit(f)(*trees), wanted)
    elif mode == "eager":
        assert_equal(f(*trees), wanted)
    else:
        stacked = jax.tree.map(lambda x: jnp.stack([x, x]), trees)
        assert_equal(jax.tree.map(lambda x: x[1], jax.vmap(f)(*stacked)), wanted)


@pytest.mark.parametrize("name", BINARY)
def test_absent_on_either_side_is_absent_in_the_result(name):
    f, _ = BINARY[name]
    x, y = {"a": jnp.ones(2), "b": None, "c": jnp.ones(2)}, {"a": None, "b": jnp.ones(3), "c": jnp.ones(2)}
    result = f(x, y)
    assert result["a"] is None
    assert result["b"] is None
    assert result["c"].shape == (2,)


@pytest.mark.parametrize("name", [*BINARY, *UNARY])
def test_trees_without_leaves(name):
    f, _ = (BINARY | UNARY)[name]
    for empty in ({}, None, (), {"a": None}):
        assert f(*([empty] * (2 if name in BINARY else 1))) == empty


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("a", "b", "wanted"), [(F16, F16, F16), (BF16, F16, F32), (BF16, F32, F32), (F16, F32, F32)]
)
def test_different_dtypes_meet_in_one_that_holds_both(name, a, b, wanted):
    assert BINARY[name][0](jnp.ones(2, a), jnp.ones(2, b)).dtype == wanted


def test_narrow_arithmetic_is_rounded_once():
    x, y = jnp.full(3, 1.0, BF16), jnp.full(3, 2.0**-9, BF16)
    # Added one by one in bfloat16, both would vanish.
    np.testing.assert_array_equal(tree.add(x, y, y, y, y), jnp.full(3, 1.0 + 2.0**-7, BF16))
    # 300 * 300 overflows float16 on the way.
    np.testing.assert_array_equal(
        tree.add_scale(
            jnp.zeros(1, F16), jnp.float32(1e-3), tree.mul(jnp.full(1, 200.0, F16), jnp.full(1, 300.0, F16))
        ),
        jnp.full(1, 60.0, F16),
    )


@pytest.mark.parametrize(
    "scalar", [0.1, np.float32(0.1), np.float64(0.1), jnp.float32(0.1), jnp.array(0.1, BF16)]
)
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_a_scalar_does_not_change_the_dtype(scalar, dtype):
    leaf = jnp.full(2, 3.0, dtype)
    result = tree.scale(scalar, leaf)
    assert result.dtype == dtype
    exact = np.float64(np.asarray(scalar, np.float32)) * 3
    np.testing.assert_allclose(np.float64(result), exact, rtol=float(jnp.finfo(dtype).eps))
    assert tree.add_scale(leaf, scalar, leaf).dtype == dtype
    assert tree.clip(leaf, scalar, 1).dtype == dtype


def test_integers():
    n, m = {"n": jnp.array([7, -3])}, {"n": jnp.array([2, 2])}
    np.testing.assert_array_equal(tree.add(n, m)["n"], [9, -1])
    assert tree.add(n, m)["n"].dtype == tree.scale(2, n)["n"].dtype == jnp.int32
    np.testing.assert_allclose(tree.div(n, m)["n"], [3.5, -1.5])
    np.testing.assert_allclose(tree.scale(0.5, n)["n"], [3.5, -1.5])
    assert tree.add(n, {"n": jnp.ones(2, BF16)})["n"].dtype == BF16


def test_bounds_beyond_the_range_of_integers_are_no_bounds():
    small = jnp.asarray([5, -5, 127], jnp.int8)
    bounds = (-1000, 1000), (None, 2**31 - 1), (-(2**31), None)
    assert all(np.array_equal(tree.clip(small, *pair), small) for pair in bounds)
    assert tree.clip(small, 1000, None).tolist() == [127] * 3
    unsigned = jnp.asarray([5, 200], jnp.uint8)
    assert tree.clip(unsigned, -1, 250).tolist() == [5, 200]
    assert tree.clip(unsigned, None, -1).tolist() == [0, 0]
    assert tree.clip(unsigned, -1, 250).dtype == jnp.uint8


def test_complex_numbers():
    z = {"z": jnp.array([1 + 2j])}
    np.testing.assert_array_equal(tree.conj(z)["z"], [1 - 2j])
    np.testing.assert_array_equal(tree.real(z)["z"], [1.0])
    np.testing.assert_array_equal(tree.scale(1j, {"z": jnp.ones(1)})["z"], [1j])
    assert tree.mul(z, {"z": jnp.ones(1, BF16)})["z"].dtype == jnp.complex64
    with pytest.raises(TypeError, match=r"the leaf at 'z' must hold real numbers; got complex64"):
        tree.clip(z, 0, 1)


def test_python_numbers_as_leaves_take_the_others_dtype():
    assert tree.add({"a": 1.0}, {"a": jnp.ones((), BF16)})["a"].dtype == BF16
    assert tree.add({"a": 1.0}, {"a": 2.0})["a"].dtype == F32
    assert tree.add({"a": 1.5}, {"a": jnp.array(2)})["a"] == 3.5


def test_where_selects_keys_too():
    a, b = jax.random.key(0), jax.random.key(1)
    assert tree.where(True, {"k": a}, {"k": b})["k"] == a
    keys = tree.where(jnp.array([True, False]), {"k": a}, {"k": b})["k"]
    assert (keys[0], keys[1]) == (a, b)


def test_where_takes_an_array_that_broadcasts():
    chosen = np.array([True, False, True])
    x = {"w": np.ones((2, 3), np.float32), "b": np.float32(2.0), "n": None}
    y = {"w": np.zeros((2, 1), np.float32), "b": np.arange(3, dtype=np.float32), "n": None}
    result = tree.where(chosen, x, y)
    np.testing.assert_array_equal(result["w"], [[1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(result["b"], [2, 1, 2])
    assert result["n"] is None
    with pytest.raises(ValueError, match=r"tree.where: .* 'b' must have shapes that broadcast; got \(3,\)"):
        tree.where(np.ones(4, bool), x, y)


@pytest.mark.parametrize("name", BINARY)
def test_a_wrong_shape_is_named(name):
    x, y = {"l": {"w": jnp.ones((3,))}}, {"l": {"w": jnp.ones((4, 2))}}
    with pytest.raises(
        ValueError, match=r"the leaves at 'l/w' must have shapes that broadcast; got \(3,\) and \(4, 2\)"
    ):
        BINARY[name][0](x, y)


@pytest.mark.parametrize("name", BINARY)
def test_leaves_broadcast_as_in_numpy(name):
    ours, numpys = BINARY[name]
    x = {
        "a": np.linspace(1.0, 2.0, 3, dtype=np.float32),
        "b": np.float32(1.5),
        "c": np.ones((2, 1), np.float32),
    }
    y = {
        "a": np.linspace(2.0, 3.0, 12, dtype=np.float32).reshape(4, 3),
        "b": np.ones(2, np.float32),
        "c": np.float32(2.5),
    }
    for first, second in ((x, y), (y, x)):
        result = ours(first, second)
        for leaf in result:
            expected = numpys(first[leaf], second[leaf])
            expected = np.broadcast_to(expected, np.broadcast_shapes(first[leaf].shape, second[leaf].shape))
            np.testing.assert_allclose(result[leaf], expected, rtol=1e-6)


def test_the_other_calls_broadcast_too():
    np.testing.assert_array_equal(tree.add_scale(jnp.ones(3), 2.0, jnp.ones((4, 3))), np.full((4, 3), 3))
    np.testing.assert_array_equal(tree.mul({"a": jnp.ones(3)}, {"a": 2.0})["a"], [2, 2, 2])
    np.testing.assert_array_equal(tree.add(jnp.ones(2), 1.0, jnp.ones((2, 1))), np.full((2, 2), 3))
    np.testing.assert_array_equal(tree.where(True, jnp.zeros(()), jnp.ones(3)), np.zeros(3))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"l": [1.0]}, r"'l/1' the first tree has a leaf, the second tree has nothing there"),
        ({"l": [1.0, 1.0, 1.0]}, r"'l/2' the first tree has nothing there, the second tree has a leaf"),
        ({"l": (1.0, 1.0)}, r"'l' the first tree has a list, the second tree has a tuple"),
        ({"l": [1.0, {"k": 1.0}]}, r"'l/1' the first tree has a leaf, the second tree has a dict"),
        ([1.0], r"the root the first tree has a dict, the second tree has a list"),
        ({"l": None}, r"'l' the first tree has a list, the second tree has None"),
    ],
)
def test_a_wrong_structure_is_named_at_the_first_difference(name, other, message):
    with pytest.raises(ValueError, match=message):
        BINARY[name][0]({"l": [1.0, 1.0]}, other)


def test_what_is_no_number_is_named():
    with pytest.raises(TypeError, match=r"'a' of argument 'tree_x' must be an array of numbers; got 'x'"):
        tree.add({"a": "x"}, {"a": 1.0})
    with pytest.raises(TypeError, match=r"'k' of argument 'tree' must be an array of numbers; got key"):
        tree.scale(1.0, {"k": jax.random.key(0)})
    with pytest.raises(ValueError, match=r"argument 'scalar' must be a scalar; got shape \(3,\)"):
        tree.scale(jnp.ones(3), X)
    with pytest.raises(TypeError, match=r"argument 'scalar' must be a scalar; got None"):
        tree.add_scale(X, None, Y)


def test_gradients_pass():
    gradient = jax.grad(lambda s: tree.sum(tree.scale(s, X)))(2.0)
    np.testing.assert_allclose(gradient, 1.5 - 2.0 + 0.25 + 3.0, rtol=1e-6)


def test_calls_compile_once_and_scalars_do_not_count(count_compiles):
    tree.add(tree.scale(0.25, X), Y)
    with count_compiles() as compiles:
        for s in (0.5, 2.0, 3.5):
            tree.add(tree.scale(s, X), Y)
    assert compiles() == 0
