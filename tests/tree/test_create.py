import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree

LEAVES = {
    "w": jnp.array([[1.5, -2.0]], jnp.bfloat16),
    "n": None,
    "i": jnp.array([3]),
    "z": jnp.array([1j]),
    "e": jnp.zeros((0, 3)),
    "np": np.ones(2, np.float32),
    "number": 2.0,
    "sds": jax.ShapeDtypeStruct((2,), jnp.float16),
}
DTYPES = {
    "w": jnp.bfloat16,
    "i": jnp.int32,
    "z": jnp.complex64,
    "e": jnp.float32,
    "np": jnp.float32,
    "number": jnp.float32,
    "sds": jnp.float16,
}
ARRAYS = {k: v for k, v in LEAVES.items() if k != "sds"}


@pytest.mark.parametrize("mode", ["eager", "jit", "eval_shape"])
@pytest.mark.parametrize(
    ("f", "value"), [(tree.zeros_like, 0), (tree.ones_like, 1), (lambda t: tree.full_like(t, 2), 2)]
)
def test_filled_trees(f, value, mode):
    if mode == "eager":
        result = f(LEAVES)
    else:
        result = (jax.jit(f) if mode == "jit" else lambda t: jax.eval_shape(f, t))(ARRAYS)
    assert result.pop("n") is None
    for name, x in result.items():
        assert x.shape == np.shape(LEAVES[name])
        assert x.dtype == DTYPES[name]
        assert not x.weak_type
        if mode != "eval_shape":
            np.testing.assert_array_equal(np.asarray(x, np.complex64), np.full(x.shape, value))


@pytest.mark.parametrize("dtype", [jnp.float32, "bfloat16", float])
def test_a_given_dtype_replaces_the_leaves_own(dtype):
    result = tree.zeros_like(LEAVES, dtype)
    wanted = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    assert all(x.dtype == wanted and not x.weak_type for x in jax.tree.leaves(result))


def test_buffers_are_fresh_and_distinct():
    params = {"a": jnp.zeros((8,)), "b": jnp.zeros((8,)), "c": np.zeros((8,), np.float32)}
    for f in (tree.zeros_like, jax.jit(tree.zeros_like)):
        leaves = jax.tree.leaves([params["a"], params["b"], f(params), f(params)])
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_a_fill_value_may_be_traced():
    result = jax.jit(tree.full_like)(ARRAYS, jnp.float32(2.5))
    np.testing.assert_array_equal(result["w"], jnp.full((1, 2), 2.5, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"argument 'fill_value' must be a scalar; got shape \(2,\)"):
        tree.full_like(ARRAYS, jnp.ones(2))


def test_under_transformations():
    x = {"a": jnp.ones((2, 3))}
    assert jax.vmap(tree.zeros_like)(x)["a"].shape == (2, 3)
    assert jax.jit(jax.vmap(tree.zeros_like))(x)["a"].shape == (2, 3)
    for wrap in (lambda f: f, jax.jit):
        gradient = wrap(jax.grad(lambda t: tree.vdot(tree.ones_like(t), t)))(x)
        np.testing.assert_array_equal(gradient["a"], np.ones((2, 3)))

    def step(total, row):
        return tree.add(total, tree.ones_like(row)), None

    total, _ = jax.jit(lambda t: jax.lax.scan(step, tree.zeros_like(t["a"][0]), t["a"]))(x)
    np.testing.assert_array_equal(total, [2, 2, 2])


def test_cast():
    result = tree.cast(ARRAYS | {"z": None}, jnp.float16)
    assert result["n"] is result["z"] is None
    for name in ("w", "i", "e", "np", "number"):
        assert result[name].dtype == jnp.float16
        assert not result[name].weak_type
        np.testing.assert_array_equal(np.float64(result[name]), np.float64(ARRAYS[name]))
    assert tree.cast(LEAVES, None) is LEAVES
    assert tree.cast(LEAVES["w"], jnp.bfloat16) is LEAVES["w"]
    assert tree.cast(LEAVES["sds"], jnp.float32) == jax.ShapeDtypeStruct((2,), jnp.float32)
    assert jax.jit(lambda t: tree.cast(t, "float16"))(ARRAYS["w"]).dtype == jnp.float16


def test_cast_like():
    x = {"a": jnp.ones(2), "b": jnp.ones(2), "c": None, "d": jnp.ones(2)}
    y = {
        "a": jnp.ones(1, jnp.bfloat16),
        "b": jax.ShapeDtypeStruct((5,), jnp.float16),
        "c": jnp.ones(1),
        "d": None,
    }
    result = tree.cast_like(x, y)
    assert result["a"].dtype == jnp.bfloat16
    assert result["b"].dtype == jnp.float16
    assert result["c"] is result["d"] is None
    with pytest.raises(ValueError, match=r"'d' the first tree has a leaf, the second tree has nothing there"):
        tree.cast_like(x, {k: y[k] for k in "abc"})


def test_a_cast_never_drops_an_imaginary_part():
    with pytest.raises(TypeError, match=r"the leaf at 'z' must be real.*got complex64"):
        tree.cast(ARRAYS, jnp.float32)
    assert tree.cast({"w": jnp.ones(1)}, jnp.complex64)["w"].dtype == jnp.complex64


def test_batch_shape():
    result = tree.batch_shape({"a": jnp.arange(3.0), "n": None, "s": 2.0}, (4, 2))
    np.testing.assert_array_equal(result["a"], np.broadcast_to(np.arange(3.0), (4, 2, 3)))
    assert result["n"] is None
    assert result["s"].shape == (4, 2)
    np.testing.assert_array_equal(tree.batch_shape(jnp.ones(2)), [1, 1])
