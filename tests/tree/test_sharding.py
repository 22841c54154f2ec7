import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gradflow import tree

SPECS = {"w": P("x", "y"), "b": P("x"), "s": P()}
SHAPES = {"w": (8, 4), "b": (16,), "s": ()}


@pytest.fixture(params=["auto", "explicit", "explicit, mesh set"])
def mesh(request):
    kind = AxisType.Auto if request.param == "auto" else AxisType.Explicit
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)
    if request.param.endswith("set"):
        with jax.set_mesh(mesh):
            yield mesh
    else:
        yield mesh


@pytest.fixture
def params(mesh):
    dtypes = {"w": jnp.float32, "b": jnp.bfloat16, "s": jnp.float32}
    return {
        k: jax.device_put(
            np.linspace(-1, 2, int(np.prod(SHAPES[k]))).reshape(SHAPES[k]).astype(dtypes[k]),
            NamedSharding(mesh, SPECS[k]),
        )
        for k in SPECS
    }


def assert_sharded_alike(result, params):
    for name, x in result.items():
        assert x.sharding.is_equivalent_to(params[name].sharding, x.ndim), name


CREATE = {
    "zeros_like": tree.zeros_like,
    "ones_like float32": lambda t: tree.ones_like(t, jnp.float32),
    "full_like": lambda t: tree.full_like(t, 0.5),
    "random_like": lambda t: tree.random_like(jax.random.key(0), t),
    "scale": lambda t: tree.scale(0.5, t),
    "add": lambda t: tree.add(t, t),
    "update_moment": lambda t: tree.update_moment(t, t, 0.9, 2),
    "cast": lambda t: tree.cast(t, jnp.float16),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", CREATE)
def test_new_trees_are_sharded_like_the_old(name, jit, params):
    f = CREATE[name]
    assert_sharded_alike((jax.jit(f) if jit else f)(params), params)


def test_the_control_without_care_is_not_sharded():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    w = jax.device_put(jnp.ones((8,)), NamedSharding(mesh, P("x")))
    careless = jax.jit(lambda x: jnp.zeros(x.shape, x.dtype))(w)
    assert not careless.sharding.is_equivalent_to(w.sharding, 1)


def test_nothing_is_gathered(params):
    text = jax.jit(tree.zeros_like).lower(params).compile().as_text()
    for operation in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert operation not in text
    whole = jax.jit(tree.norm).lower(params).compile().as_text()
    assert "all-gather" not in whole
    assert "all-reduce" in whole


def test_every_shard_has_a_buffer_of_its_own(params):
    states = [tree.zeros_like(params), tree.zeros_like(params), jax.jit(tree.zeros_like)(params)]

    def pointers(t):
        shards = [s.data for x in jax.tree.leaves(t) for s in x.addressable_shards]
        return [s.unsafe_buffer_pointer() for s in shards]

    own = pointers(states)
    assert len(set(own)) == len(own) == 3 * 8 * 3
    assert not set(own) & set(pointers(params))


def test_abstract_leaves_with_a_sharding(params):
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    assert_sharded_alike(tree.zeros_like(abstract), params)


def test_params_captured_by_a_jitted_function(params, mesh):
    if mesh.are_all_axes_explicit and jax.sharding.get_abstract_mesh().empty:
        pytest.skip("jax wants the mesh set here")
    assert_sharded_alike(jax.jit(lambda: tree.zeros_like(params))(), params)


def test_transformed_functions(params):
    matrices = {"w": params["w"]}
    f = jax.jit(lambda t: jax.lax.scan(lambda c, _: (tree.add(c, t), None), tree.zeros_like(t), None, 3)[0])
    assert_sharded_alike(f(matrices), params)
    assert jax.jit(jax.vmap(tree.zeros_like))(matrices)["w"].shape == (8, 4)
    gradient = jax.jit(jax.grad(lambda t: tree.vdot(tree.ones_like(t), t)))(matrices)
    assert_sharded_alike(gradient, params)


def test_reductions_agree_with_one_device(params):
    local = jax.tree.map(np.asarray, params)
    for f in (tree.norm, tree.sum, tree.max, tree.min, lambda t: tree.vdot(t, t)):
        np.testing.assert_allclose(f(params), f(local), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(f)(params), f(local), rtol=1e-6)


MANUAL = [frozenset("xy"), frozenset("x")]


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("axes", MANUAL, ids=["all axes", "one axis"])
def test_inside_shard_map(mesh, axes, check_vma):
    if mesh.are_all_axes_explicit and len(axes) == 1:
        pytest.skip("partly manual regions: automatic axes only")
    spec = {"w": P("x", "y" if "y" in axes else None)}
    w = {"w": jax.device_put(jnp.arange(32.0).reshape(8, 4), NamedSharding(mesh, P("x", "y")))}
    names = tuple(sorted(axes))
    mapped = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec,), axis_names=axes, check_vma=check_vma
    )

    def count(t):  # a carry must keep its type, varying axes included
        start = tree.zeros_like(t)
        return jax.lax.scan(lambda c, _: (tree.add(c, tree.ones_like(t)), None), start, None, 3)[0]

    result = jax.jit(mapped(count, out_specs=spec))(w)
    np.testing.assert_array_equal(result["w"], np.full((8, 4), 3))

    for scale in (1.0, 1e25, 1e-25, 0.0):
        t = tree.scale(scale, w)
        norm = jax.jit(mapped(lambda t: tree.norm(t, axis_name=names), out_specs=P()))(t)
        np.testing.assert_allclose(norm, tree.norm(t), rtol=1e-6)
    for f in (tree.sum, tree.max, tree.min, functools.partial(tree.norm, ord=1)):
        one = jax.jit(mapped(functools.partial(f, axis_name=names), out_specs=P()))(w)
        np.testing.assert_allclose(one, f(w), rtol=1e-6)
    empty = jax.jit(mapped(lambda t: tree.norm({}, axis_name=names), out_specs=P()))(w)
    assert empty == 0


def test_gradient_of_a_norm_inside_shard_map():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    w = jax.device_put(jnp.arange(1.0, 9.0), NamedSharding(mesh, P("x")))
    f = jax.shard_map(
        jax.grad(lambda t: tree.norm(t, axis_name="x")), mesh=mesh, in_specs=P("x"), out_specs=P("x")
    )
    np.testing.assert_allclose(jax.jit(f)(w), np.asarray(w) / np.linalg.norm(w), rtol=1e-6)
