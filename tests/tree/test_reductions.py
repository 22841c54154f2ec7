import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree

TREE = {"a": jnp.array([[3.0, -4.0], [0.5, 2.0]]), "b": [jnp.array(-1.5), None], "e": jnp.zeros((0,))}
REDUCTIONS = {"sum": (tree.sum, np.sum), "max": (tree.max, np.max), "min": (tree.min, np.min)}


def flat(t):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(t)])


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_values(name, mode):
    f, reference = REDUCTIONS[name]
    wanted = reference(flat(TREE))
    if mode == "vmap":
        result = jax.vmap(f)(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), TREE))
        np.testing.assert_allclose(result, [wanted, 2 * wanted], rtol=1e-6)
    else:
        result = (jax.jit(f) if mode == "jit" else f)(TREE)
        np.testing.assert_allclose(result, wanted, rtol=1e-6)
        assert not result.weak_type


@pytest.mark.parametrize("empty", [{}, None, {"a": None}, [jnp.zeros((0, 2), jnp.bfloat16)]])
def test_empty_trees(empty):
    for f, wanted in ((tree.sum, 0.0), (tree.max, -np.inf), (tree.min, np.inf)):
        assert f(empty) == wanted
        assert f(empty).dtype == jnp.float32
    assert tree.vdot(empty, empty) == 0


def test_sums_are_accumulated_in_float32():
    ones = jnp.ones(4096, jnp.float16)  # float16 holds integers up to 2048
    for result in (tree.sum([ones, ones]), tree.vdot([ones, ones], [ones, ones])):
        assert result == 8192
        assert result.dtype == jnp.float32
    many = {str(i): jnp.float32(0.1) for i in range(1000)}
    np.testing.assert_allclose(tree.sum(many), 1000 * np.float64(np.float32(0.1)), rtol=2e-7)
    assert tree.sum(many, True) == tree.sum(many)


@pytest.mark.parametrize("f", [tree.sum, tree.norm, tree.max, lambda t: tree.vdot(t, t)])
def test_many_leaves_are_not_joined_in_one_kernel(f):
    """XLA on CPU compiles a kernel in the square of the reductions that it joins."""
    many = [jnp.full((3, 2), i, jnp.float32) for i in range(400)]
    computations = jax.jit(f).lower(many).compile().as_text().split("\n\n")
    joins = max(len(re.findall(r" (?:add|maximum)\(", text)) for text in computations)
    assert joins < 100


def test_integers_are_summed_as_integers():
    big = [jnp.array([2**24, 1]), jnp.array([1], jnp.int8)]
    assert tree.sum(big) == 2**24 + 2
    assert tree.sum(big).dtype == tree.vdot(big, big).dtype == jnp.int32
    assert tree.sum([jnp.array([True, True])]) == 2
    assert tree.max([jnp.array([3], jnp.int8)]).dtype == jnp.int8
    assert tree.sum([jnp.array([3]), jnp.array(0.5, jnp.bfloat16)]) == 3.5


def test_max_keeps_the_dtype_and_nan():
    assert tree.max([jnp.ones(2, jnp.bfloat16)]).dtype == jnp.bfloat16
    assert tree.max([jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.float16)]).dtype == jnp.float32
    assert np.isnan(tree.max([jnp.array([1.0, np.nan]), jnp.ones(2)]))


def test_vdot():
    x = {"z": jnp.array([1 + 2j, 3j]), "r": jnp.array([2.0]), "n": None, "m": jnp.ones(2)}
    y = {"z": jnp.array([2 - 1j, 1j]), "r": jnp.array([4.0], jnp.bfloat16), "n": None, "m": None}
    result = tree.vdot(x, y)
    np.testing.assert_allclose(result, np.vdot([1 + 2j, 3j, 2], [2 - 1j, 1j, 4]), rtol=1e-6)
    assert result.dtype == jnp.complex64
    with pytest.raises(ValueError, match=r"the leaves at 'r' must have equal shapes; got \(1,\) and \(\)"):
        tree.vdot({"r": jnp.ones(1)}, {"r": jnp.ones(())})
    with pytest.raises(ValueError, match=r"the root the first tree has a dict, the second tree has a list"):
        tree.vdot({"r": jnp.ones(1)}, [jnp.ones(1)])


@pytest.mark.parametrize("name", REDUCTIONS)
def test_named_axes(name):
    f, reference = REDUCTIONS[name]
    x = jnp.arange(6.0).reshape(2, 3) - 2
    result = jax.vmap(lambda v: f({"v": v}, axis_name="i"), axis_name="i")(x)
    np.testing.assert_allclose(result, np.full(2, reference(np.asarray(x))))
    dots = jax.vmap(lambda v: tree.vdot(v, v, axis_name="i"), axis_name="i")(x)
    np.testing.assert_allclose(dots, np.full(2, np.vdot(x, x)))


def test_the_largest_of_booleans_is_one_along_axes_too():
    x = jnp.asarray([[True, False], [False, False]])
    largest = jax.vmap(lambda v: tree.max({"v": v}, axis_name="i"), axis_name="i")(x)
    assert largest.dtype == tree.max({"v": x}).dtype == bool
    assert largest.all()


def test_float64():
    with jax.enable_x64(True):
        x = [jnp.full(3, 1e300, jnp.float64), jnp.ones(2, jnp.float32)]
        assert tree.sum(x).dtype == tree.vdot(x, x).dtype == jnp.float64
        np.testing.assert_allclose(tree.sum(x), 3e300)


def test_complex_numbers_are_ordered_as_in_numpy():
    z = np.array([[1 + 2j, 1 - 3j], [0.5 + 9j, 1 + 1j]], np.complex64)
    t = {"a": jnp.asarray(z[0]), "b": jnp.asarray(z[1]), "c": jnp.zeros(0, jnp.complex64)}
    assert tree.max(t) == np.max(z)
    assert tree.min(t) == np.min(z)
    assert tree.max({"a": jnp.asarray(z[0]), "r": jnp.ones(2)}) == 1 + 2j


def test_mistakes():
    with pytest.raises(TypeError, match=r"'k' of argument 'tree' must be an array of numbers; got key"):
        tree.sum({"k": jax.random.key(0)})


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("f", [tree.max, tree.min, lambda x: tree.norm(x, ord=np.inf)])
def test_a_nan_among_thousands_of_numbers_shows(f, sign):
    """XLA's maximum on a CPU leaves it out."""
    leaf = jnp.ones((64, 64)).at[3, 4].set(sign * jnp.nan)
    assert np.isnan(f({"a": leaf, "b": jnp.zeros(2)}))
    assert np.isnan(jax.vmap(f, axis_name="x")(leaf)[3])
    assert np.isfinite(f({"a": jnp.ones((64, 64))}))


@pytest.mark.parametrize("f", [tree.max, tree.min, lambda x, **k: tree.norm(x, ord=np.inf, **k)])
def test_a_nan_of_one_device_shows_on_all(f):
    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.shard_map(
        lambda x: f(x, axis_name="x")[None],
        mesh=mesh,
        in_specs=jax.P("x"),
        out_specs=jax.P("x"),
        check_vma=False,
    )
    assert np.all(np.isnan(run(jnp.ones((count, 2)).at[-1, 1].set(jnp.nan))))
