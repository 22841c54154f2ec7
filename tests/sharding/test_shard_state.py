"""ZeRO: pieces of the state, the numbers of one device, and one gather of the parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from laws.support import assert_close

import gradflow as gf
from gradflow import sharding

KINDS = [AxisType.Auto, AxisType.Explicit]
SHAPES = {"kernel": (16, 8), "narrow": (3, 8), "bias": (8,), "odd": (3,), "scalar": ()}
SPECS = {
    "kernel": P("model", None),
    "narrow": P(None, "model"),
    "bias": P(None),
    "odd": P(None),
    "scalar": P(),
}
# The first free side that four devices divide; a side that is cut anyway where there is no other.
PIECES = {"kernel": P("model", "data"), "narrow": P(None, ("model", "data")), "bias": P("data"), "odd": P(),
          "scalar": P()}  # fmt: skip
TREES = ("mu", "nu")


@functools.cache
def mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)


def sharded(tx: Any, kind: AxisType) -> Any:
    return gf.shard_state(tx, mesh(kind), specs=SPECS if kind == AxisType.Auto else None)


def tree(seed: int, kind: AxisType | None) -> Any:
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    if kind is None:
        return jax.tree.map(jnp.asarray, values)
    return jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh(kind), s)), values, SPECS)


def run(tx: Any, kind: AxisType | None) -> tuple[Any, Any]:
    """Updates and states of three steps, from equal gradients."""
    params, step, found = tree(0, kind), jax.jit(tx.update), []
    state = jax.jit(tx.init)(params)
    for seed in (1, 2, 3):
        updates, state = step(tree(seed, kind), state, params)
        found.append(updates)
    return found, state


def equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_elementwise_rules_give_the_same_bits(kind: AxisType) -> None:
    tx = gf.chain(gf.clip(0.5), gf.adamw(0.1))
    found, state = run(sharded(tx, kind), kind)
    assert equal((found, state), run(tx, kind))
    for name, spec in SPECS.items():
        assert found[-1][name].sharding.is_equivalent_to(NamedSharding(mesh(kind), spec), len(SHAPES[name]))


@pytest.mark.parametrize("kind", KINDS)
def test_norms_agree_with_one_device(kind: AxisType) -> None:
    tx = gf.lamb(0.1)
    assert_close(jax.tree.map(np.asarray, run(sharded(tx, kind), kind)), run(tx, None))


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_has_its_share_of_the_state(kind: AxisType) -> None:
    tx, params = sharded(gf.adam(0.1), kind), tree(0, kind)
    eager, placed = tx.init(params), sharding.state_sharding(tx, params)
    for name, spec in PIECES.items():
        wanted = NamedSharding(mesh(kind), spec)
        for where in TREES:
            leaf = getattr(eager[0], where)[name]
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), name
            assert getattr(placed[0], where)[name].is_equivalent_to(wanted, leaf.ndim), name
    kernel = eager[0].mu["kernel"].addressable_shards[0].data
    assert kernel.size == 16 * 8 // 8, "cut along data, and along model like the parameter"


def test_a_state_stays_where_it_is_and_is_compiled_once() -> None:
    tx, params = sharded(gf.adamw(0.1), AxisType.Auto), tree(0, AxisType.Auto)
    state, step = tx.init(params), jax.jit(tx.update, donate_argnums=1)
    before = jax.tree.map(lambda x: x.sharding, state)
    for seed in range(3):
        _, state = step(tree(seed, AxisType.Auto), state, params)
    assert step._cache_size() == 1
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, before)
    assert jax.tree.all(same)
    eager, eager_state = tx.update(tree(0, AxisType.Auto), tx.init(params), params)
    assert eager["kernel"].sharding.is_equivalent_to(params["kernel"].sharding, 2)
    assert eager_state[0].mu["kernel"].sharding.is_equivalent_to(before[0].mu["kernel"], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_one_gather_of_the_parameters(kind: AxisType) -> None:
    found = sharding.communication(sharded(gf.adamw(0.1), kind), tree(0, kind))
    (row,) = found.rows
    assert (row.kind, row.axes) == ("all-gather", ("data",))
    assert row.bytes == 4 * (16 * 8 // 2 + 3 * 8 // 2 + 8)
    assert [whole.path for whole in found.whole] == ["'odd'", "'scalar'"]
    assert "shard_state: 'odd' of shape (3,) is whole on each of the 4 devices along data" in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_spread_takes_the_pieces(kind: AxisType) -> None:
    """Two all-to-alls of the matrices' pieces, and the gather."""
    tx = gf.scale_by_muon(ns_steps=1)
    spec = P("model", None)
    like = {f"w{i}": NamedSharding(mesh(kind), spec) for i in range(8)}
    params = {k: jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=s) for k, s in like.items()}
    specs = spec if kind == AxisType.Auto else None
    found = sharding.communication(gf.shard_state(gf.spread(tx), mesh(kind), specs=specs), params)
    assert {(row.kind, row.count, row.bytes) for row in found.rows} == {
        ("all-to-all", 2, 2 * 16 * 8 * 4), ("all-gather", 8, 8 * 16 * 8 * 4 // 2),
    }  # fmt: skip
    assert found.spread[0].devices == 8
    alone = gf.shard_state(gf.spread(tx), mesh(kind), specs=specs)
    rng = np.random.default_rng(0)
    g = {name: rng.standard_normal((16, 8)).astype(np.float32) for name in params}
    placed = jax.device_put(g, like)
    u, _ = jax.jit(alone.update)(placed, jax.jit(alone.init)(placed), placed)
    assert_close(jax.tree.map(np.asarray, u), tx.update(g, tx.init(g), g)[0])


def test_the_mesh_that_is_set_and_none() -> None:
    tx, g = gf.shard_state(gf.adam(0.1)), {"w": jnp.ones((16, 8))}
    assert jax.tree.leaves(tx.init(g))[1].sharding.is_fully_replicated
    with jax.set_mesh(mesh()):
        on_mesh = jax.device_put(g, NamedSharding(mesh(), P()))
        assert tx.init(on_mesh)[0].mu["w"].sharding.spec == P("data", None)


def test_more_axes_and_pieces_that_are_cut_already() -> None:
    both = gf.shard_state(gf.trace(0.9), mesh(), ("data", "model"))
    g = {"w": jnp.ones((16, 8)), "v": jnp.ones(4)}
    state = both.init(g)
    assert state.trace["w"].sharding.spec == P(("data", "model"), None)
    cut = gf.shard_state(gf.trace(0.9), mesh(), specs=P("data"))
    found = sharding.communication(cut, jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(mesh(), P("data"))), g))  # fmt: skip
    assert found.rows == (), "parameters that are cut along the axis have their pieces already"


def test_mistakes_are_named() -> None:
    tx, g = gf.adam(0.1), {"w": jnp.ones((16, 8))}
    with pytest.raises(
        TypeError, match=r"shard_state: argument 'mesh' must be a jax.sharding.Mesh or None; got 8"
    ):
        gf.shard_state(tx, 8)
    with pytest.raises(ValueError, match="'axis' must name axes of the mesh, 'data', 'model'; got 'batch'"):
        gf.shard_state(tx, mesh(), "batch")
    for axis in (3, (), ("data", 3)):
        with pytest.raises(TypeError, match="'axis' must be the name of a mesh axis or a tuple of names"):
            gf.shard_state(tx, mesh(), axis)
    with pytest.raises(ValueError, match="'specs' must cover every parameter; got none for the one at 'w'"):
        gf.shard_state(tx, mesh(), specs={"v": P()}).init(g)
    other = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    away = {"w": g["w"], "v": jax.device_put(g["w"], NamedSharding(other, P()))}
    with pytest.raises(ValueError, match=r"'mesh' must be the mesh of all .* the leaf at 'v' on data=8"):
        gf.shard_state(tx, mesh()).init(away)
    with pytest.raises(
        ValueError, match=r"'specs' must be given, because the leaf at 'w' is cut.*p\.sharding\.spec"
    ):
        gf.shard_state(tx, mesh()).init({"w": jax.device_put(g["w"], NamedSharding(mesh(), P("model")))})
    inside = gf.shard_state(tx, mesh())
    with pytest.raises(
        ValueError,
        match="shard_state: inside shard_map each device has its piece already, along 'data', 'model'",
    ):
        jax.shard_map(
            lambda g: inside.update(g, inside.init(g), g)[0],
            mesh=mesh(),
            in_specs=P("data"),
            out_specs=P("data"),
        )(g)
