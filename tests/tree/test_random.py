import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree

KEY = jax.random.key(3)
TARGET = {
    "a": jnp.zeros((64, 8)),
    "b": [jnp.zeros((64, 8)), None],
    "h": jnp.zeros((512,), jnp.bfloat16),
    "s": jax.ShapeDtypeStruct((512,), jnp.float16),
    "e": jnp.zeros((0,)),
}


def test_leaves_have_the_target_shapes_and_dtypes_and_differ():
    result = tree.random_like(KEY, TARGET)
    assert jax.tree.structure(result) == jax.tree.structure(TARGET)
    for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(TARGET), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    numbers = [np.float64(x).ravel() for x in jax.tree.leaves(result) if x.size]
    for i, x in enumerate(numbers):
        assert abs(x.mean()) < 0.2
        assert 0.85 < x.std() < 1.15
        for y in numbers[:i]:
            assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_the_same_key_gives_the_same_tree_and_another_another():
    target = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    a, b = tree.random_like(KEY, target), jax.jit(tree.random_like)(KEY, target)
    assert tree.allclose(a, b, atol=1e-6)
    assert not tree.allclose(a, tree.random_like(jax.random.key(4), target))
    assert tree.allclose(a, tree.random_like(jax.random.wrap_key_data(jax.random.key_data(KEY)), target))


def test_sampler_and_dtype():
    result = tree.random_like(KEY, {"a": jnp.zeros(99)}, jax.random.uniform, jnp.float16)
    assert result["a"].dtype == jnp.float16
    assert 0 <= tree.min(result) <= tree.max(result) <= 1
    signs = tree.random_like(KEY, {"a": jnp.zeros(9, jnp.int32)}, jax.random.rademacher)
    assert set(np.asarray(signs["a"]).tolist()) == {-1, 1}


def test_a_refused_dtype_is_reported_with_its_leaf():
    with pytest.raises(ValueError, match=r"must support the dtype int32 of the leaf at 'l/0'"):
        tree.random_like(KEY, {"absent": None, "l": [jnp.array([1])]})


def test_split_key_like():
    keys = tree.split_key_like(KEY, TARGET)
    assert jax.tree.structure(keys) == jax.tree.structure(TARGET)
    raw = [tuple(np.asarray(jax.random.key_data(k))) for k in jax.tree.leaves(keys)]
    assert len(set(raw)) == 5
    assert tree.split_key_like(KEY, {}) == {}
    old = tree.split_key_like(jax.random.PRNGKey(0), {"a": 1, "b": 2})
    assert old["a"].dtype == jnp.uint32


def test_a_compiled_split_has_the_same_keys_and_one_kernel_for_all_of_them():
    leaves = {f"w{i}": jnp.zeros(2) for i in range(12)}
    split = jax.jit(lambda key: tree.split_key_like(key, leaves)).lower(KEY).compile()
    for found, expected in zip(
        jax.tree.leaves(split(KEY)), jax.tree.leaves(tree.split_key_like(KEY, leaves)), strict=True
    ):
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(expected))
    # A slice at a constant place is a kernel of its own.
    assert " u32[1,2]{1,0} slice(" not in split.as_text()


def test_unwrap_random_key_data():
    result = tree.unwrap_random_key_data({"k": KEY, "x": jnp.ones(2), "n": None})
    np.testing.assert_array_equal(result["k"], jax.random.key_data(KEY))
    np.testing.assert_array_equal(result["x"], [1, 1])
    assert result["n"] is None
