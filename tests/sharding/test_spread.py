"""Distributed Muon: the numbers of one device, two all-to-alls, and a share of the work."""

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
from gradflow.matrices import _loops
from gradflow.sharding import Collective

KINDS = [AxisType.Auto, AxisType.Explicit]
# Scanned layers, heads and fused projections beside plain matrices, and a vector for AdamW.
SHAPES = {**{f"w{i}": (16, 8) for i in range(3)}, "layers": (2, 16, 8), "qkv": (8, 4, 6), "bias": (8,)}
SPECS = {**{f"w{i}": P("x", "y") for i in range(3)}, "layers": P(None, "x", "y"), "qkv": P("x", None, "y"),
         "bias": P("y")}  # fmt: skip
MATRICES = {"**/layers": gf.Matrix(1, 2), "**/qkv": gf.Matrix(0, (1, 2), split={1: 2}), "bias": None}


@functools.cache
def mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)


def placed(tree: Any, kind: AxisType) -> Any:
    return jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh(kind), s)), tree, SPECS)


def gradients(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def steps(tx: Any, params: Any, grads: list[Any]) -> list[Any]:
    traced: list[Any] = []

    @jax.jit
    def step(g: Any, state: Any, params: Any) -> Any:
        traced.append(g)
        return tx.update(g, state, params)

    state, found = tx.init(params), []
    for g in grads:
        updates, state = step(g, state, params)
        found.append(updates)
    assert len(traced) == 1
    return [*found, state]


def muon(**more: Any) -> Any:
    return gf.muon(0.1, ns_steps=2, muon_weight_dimension_numbers=gf.choose_matrices(MATRICES), **more)


@functools.cache
def on_one_device() -> list[Any]:
    return steps(muon(), *jax.tree.map(jnp.asarray, (gradients(0), [gradients(1), gradients(2)])))


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_one_device(kind: AxisType) -> None:
    tx = gf.spread(muon(), mesh(), SPECS) if kind == AxisType.Auto else muon()
    params, *grads = (placed(gradients(seed), kind) for seed in range(3))
    found = steps(tx, params, grads)
    assert_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, on_one_device()))
    for name, u in found[0].items():
        assert u.sharding.is_equivalent_to(params[name].sharding, u.ndim), name


def shapes(count: int, spec: Any, on: Mesh, shape: tuple[int, ...] = (16, 8)) -> dict[str, Any]:
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(on, spec))
    return {f"w{i}": leaf for i in range(count)}


SHORT = gf.scale_by_muon(ns_steps=1)


@functools.cache
def compiled(tx: Any, kind: AxisType, sides: tuple[int, int], spec: Any) -> tuple[Any, float]:
    """What eight matrices communicate, and the flops of a device."""
    devices = np.array(jax.devices()[: sides[0] * sides[1]]).reshape(sides)
    here = Mesh(devices, ("x", "y"), axis_types=(kind,) * 2)
    params = shapes(8, spec, here, (128, 64))
    program = sharding._communication.lower(tx, params, here).compile()
    return sharding.communication_of(program, here), float(program.cost_analysis()["flops"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sides", "spec"), [((4, 2), P("x", "y")), ((8, 1), P(None, "x"))])
def test_two_shares_and_a_share_of_the_work(
    kind: AxisType, sides: Any, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loops, "_FEWEST", 100)  # of a loop XLA counts the work of one turn
    here = Mesh(np.array(jax.devices()).reshape(sides), ("x", "y"))
    tx = gf.spread(SHORT, here, spec) if kind == AxisType.Auto else SHORT
    found, flops = compiled(tx, kind, sides, spec)
    names = ("x", "y") if sides == (4, 2) else ("x",)
    share = 8 * 128 * 64 * 4 // 8
    assert found.rows == (Collective("all-to-all", names, "step", 2, 2 * share),)
    assert flops <= 1.1 * compiled(SHORT, AxisType.Auto, (1, 1), P())[1] / 8


def test_the_control_without_it() -> None:
    found, _ = compiled(SHORT, AxisType.Auto, (4, 2), P("x", "y"))
    assert found.count > 10
    assert found.bytes > 3 * (2 * 8 * 128 * 64 * 4 // 8)


def test_a_number_that_does_not_divide_is_padded_and_reported() -> None:
    spec = P("x", "y")
    found = sharding.communication(gf.spread(SHORT, mesh(), spec), shapes(3, spec, mesh()))
    (group,) = found.spread
    assert (group.matrices, group.padded) == (3, 8)
    assert "scale_by_muon: 3 of 16 x 8 over 8 devices along x, y, padded to 8" in str(found)


def test_copies_may_share_the_work() -> None:
    """Parameters cut along x alone, with copies along y: a gather along y in the place of double work."""
    alone, flops = compiled(gf.spread(SHORT, mesh(), P("x")), AxisType.Auto, (4, 2), P("x"))
    shared = gf.spread(SHORT, mesh(), P("x"), share=("y",))
    found, shared_flops = compiled(shared, AxisType.Auto, (4, 2), P("x"))
    assert [row.kind for row in alone.rows] == ["all-to-all"]
    assert {row.kind: row.axes for row in found.rows} == {"all-to-all": ("x",), "all-gather": ("y",)}
    assert shared_flops < 0.6 * flops
    rng = np.random.default_rng(0)
    grads = {f"w{i}": rng.standard_normal((16, 8)).astype(np.float32) for i in range(8)}
    expected = SHORT.update(grads, SHORT.init(grads), grads)[0]
    on_mesh = jax.device_put(grads, NamedSharding(mesh(), P("x")))
    assert_close(shared.update(on_mesh, shared.init(on_mesh), on_mesh)[0], expected)


def test_factors_of_a_vector_stay_whole() -> None:
    """Also where matrices have factors of its shape, which are cut: states stay as they were placed."""
    params = {"w": shapes(1, P("x", "y"), mesh())["w0"], "bias": shapes(1, P(), mesh(), (8,))["w0"]}
    tx = gf.spread(gf.scale_by_shampoo(), mesh(), {"w": P("x", "y"), "bias": P()})
    placed = sharding.state_sharding(tx, params)
    shapes_of = jax.eval_shape(tx.init, params)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes_of, placed)
    found = jax.jit(tx.update).lower(params, state, params).compile().output_shardings[1]
    for x, after in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        assert x.sharding.is_equivalent_to(after, x.ndim), (x, after)
    assert placed.roots["bias"][0].spec == P()


def test_stacks_inside_are_refused() -> None:
    """Their axes are not those that `specs` names by path."""
    with pytest.raises(ValueError, match="stacked: must not be inside of spread or shard_state"):
        gf.spread(gf.stacked(gf.sgd(0.1)), mesh(), P("x", "y")).init({"w": jnp.ones((16, 8))})


# Rules whose matrices have factors, or averages of their own: what each step moves, and what a branch does.
WITH_FACTORS = {
    "soap": (gf.scale_by_soap(eps=1e-2, precondition_frequency=2), AxisType.Auto, 2, 2),
    "shampoo": (gf.scale_by_shampoo(0.9, eps=1e-2), AxisType.Explicit, 4, 2),
    "kron": (gf.scale_by_kron(), AxisType.Auto, 4, 2),
    "neuron norm": (gf.scale_by_neuron_norm(), AxisType.Explicit, 2, 0),
    "scion": (gf.scale_by_scion(ns_steps=1), AxisType.Auto, 2, 0),
}


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_factors_go_with_their_matrices(name: str) -> None:
    """Two all-to-alls for each rule that reads or returns them, and the numbers of one device."""
    tx, kind, in_step, in_branch = WITH_FACTORS[name]
    spread = gf.spread(tx, mesh(), P("x", "y")) if kind == AxisType.Auto else tx
    grads = [{f"w{i}": gradients(seed)[f"w{i}"] for i in range(3)} for seed in range(3)]
    on_mesh = [jax.device_put(g, NamedSharding(mesh(kind), P("x", "y"))) for g in grads]
    state = spread.init(on_mesh[0])
    program = jax.jit(spread.update).lower(on_mesh[0], state, on_mesh[0]).compile()
    found = sharding.communication_of(program, mesh(kind))
    assert {row.kind for row in found.rows} == {"all-to-all"}, found
    assert found.count == in_step
    assert sum(row.count for row in found.rows if row.where == "branch") == in_branch
    plain, plain_state, update = jax.tree.map(jnp.asarray, grads), tx.init(grads[0]), jax.jit(tx.update)
    for own, g in zip(plain[1:], on_mesh[1:], strict=True):
        updates, state = program(g, state, on_mesh[0])
        expected, plain_state = update(own, plain_state, plain[0])
        assert_close(jax.tree.map(np.asarray, (updates, state)), (expected, plain_state))
    factors = [x for x in jax.tree.leaves(state) if x.shape in ((16, 16), (8, 8))]
    assert all(x.addressable_shards[0].data.size == x.size // 8 for x in factors)
    assert bool(factors) == (in_branch > 0)


def test_layers_that_are_apart_already_move_nothing() -> None:
    params = shapes(1, P("x"), mesh(AxisType.Explicit), (8, 16, 8))
    tx = gf.scale_by_muon(ns_steps=1, weight_dimension_numbers=gf.Matrix(1, 2))
    assert sharding.communication(tx, params).rows == ()


def test_without_specs_the_partitioner_finds_as_little_on_one_axis() -> None:
    line = Mesh(np.array(jax.devices()), ("data",))
    found = sharding.communication(gf.spread(SHORT, line), shapes(8, P("data"), line))
    assert found.rows == (Collective("all-to-all", ("data",), "step", 2, 1024),)
    assert found.spread[0].devices == 8


def test_the_mesh_that_is_set_and_none() -> None:
    tx = gf.spread(gf.orthogonalize(ns_steps=1), specs=P("x", "y"))
    g = {"w": jax.device_put(jnp.ones((16, 8)) + jnp.eye(16, 8), NamedSharding(mesh(), P("x", "y")))}
    expected = gf.orthogonalize(ns_steps=1).update(g, gf.EmptyState(), g)[0]
    with jax.set_mesh(mesh()):
        inside = jax.jit(tx.update).lower(g, gf.EmptyState(), g)
        assert "all_to_all" in inside.as_text()
        assert_close(tx.update(g, gf.EmptyState(), g)[0], expected)
    assert "all_to_all" not in jax.jit(tx.update).lower(g, gf.EmptyState(), g).as_text()
    assert_close(tx.update(g, gf.EmptyState(), g)[0], expected)


def test_derivatives_and_vmap_pass() -> None:
    tx = gf.spread(gf.orthogonalize(ns_steps=1), mesh(), P("x", "y"))
    g = jnp.asarray(gradients(3)["w0"])

    def value(tx: Any, g: Any) -> Any:
        return jnp.sum(jnp.sin(tx.update({"w": g}, gf.EmptyState())[0]["w"]))

    plain = gf.orthogonalize(ns_steps=1)
    assert_close(
        jax.jit(jax.grad(functools.partial(value, tx)))(g), jax.grad(functools.partial(value, plain))(g)
    )
    both = jnp.stack([g, 2 * g + 1])
    assert_close(
        jax.jit(jax.vmap(functools.partial(value, tx)))(both), jnp.stack([value(plain, x) for x in both])
    )


def test_mistakes_are_named() -> None:
    tx, g = gf.orthogonalize(), {"w": jnp.ones((6, 8))}
    with pytest.raises(
        TypeError, match=r"spread: argument 'mesh' must be a jax.sharding.Mesh or None; got 'x'"
    ):
        gf.spread(tx, "x")
    with pytest.raises(ValueError, match=r"'specs' at 'w' must name axes of the mesh, 'x', 'y'; got 'z'"):
        gf.spread(tx, mesh(), {"w": P("z")})
    with pytest.raises(ValueError, match="'share' must name axes of the mesh, 'x', 'y'; got 'model'"):
        gf.spread(tx, mesh(), P("x"), share=("model",))
    with pytest.raises(
        TypeError, match="'specs' must be a tree of PartitionSpec or NamedSharding; got 3 at 'w'"
    ):
        gf.spread(tx, mesh(), {"w": 3})
    with pytest.raises(
        ValueError, match=r"the leaf at 'w' of shape \(6, 8\) must be divisible along axis 0 by the 4"
    ):
        gf.spread(tx, mesh(), {"w": P("x")}).update(g, gf.EmptyState())
    with pytest.raises(ValueError, match="'specs' must cover every parameter; got none for the one at 'w'"):
        gf.spread(tx, mesh(), {"v": P("x")}).update(g, gf.EmptyState())
    with pytest.raises(ValueError, match="must have at most 2 axes for the leaf at 'w'"):
        gf.spread(tx, mesh(), P("x", None, "y")).update(g, gf.EmptyState())
