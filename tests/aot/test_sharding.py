"""Steps compiled for eight chips of a TPU v5e that are not there: what they communicate."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from benchmarks import aot, scale
from gradflow import sharding
from gradflow.matrices import _loops

pytestmark = pytest.mark.skipif(aot.missing("v5e") is not None, reason=str(aot.missing("v5e")))
COUNT, SIDE = 8, 1024


@functools.cache
def mesh() -> Mesh:
    from jax.experimental import topologies

    described = aot.PLATFORMS["v5e"]
    os.environ.update(described.environment)
    return Mesh(np.array(topologies.get_topology_desc(**described.topology).devices), ("data",))


def on_mesh(shape: tuple[int, ...], spec: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh(), spec))


def loss(params: Any, x: jax.Array) -> jax.Array:
    for w in params.values():
        x = jnp.tanh(x @ w)
    return jnp.mean(x * x)


@functools.cache
def zero_step(tx: Any) -> tuple[dict[str, tuple[int, int]], int]:
    """Counts and bytes by kind of a data-parallel step, and the bytes of the state on one device."""
    params = {f"w{i}": on_mesh((SIDE, SIDE), P()) for i in range(COUNT)}
    shardings = sharding.state_sharding(tx, params)
    shapes = jax.eval_shape(tx.init, params)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return gf.apply_updates(params, updates), state

    out = (jax.tree.map(lambda p: p.sharding, params), shardings)
    program = jax.jit(step, donate_argnums=(0, 1), out_shardings=out)
    compiled = program.lower(params, state, on_mesh((64, SIDE), P("data"))).compile()
    found = sharding.communication_of(compiled, mesh(), params)
    held = sum(int(np.prod(x.sharding.shard_shape(x.shape))) * 4 for x in jax.tree.leaves(state))
    return {row.kind: (row.count, row.bytes) for row in found.rows}, held


def test_zero_gathers_the_parameters_once_and_scatters_gradients() -> None:
    model = COUNT * SIDE * SIDE * 4
    found, held = zero_step(gf.shard_state(gf.adamw(1e-3), mesh()))
    wanted = scale.per_device(COUNT * SIDE * SIDE, 8, data=8, model=1)
    assert wanted.updates == model
    assert found.keys() == {"all-gather", "reduce-scatter"}
    assert found["all-gather"] == (COUNT, wanted.updates)
    assert found["reduce-scatter"][1] == wanted.gradients
    assert held == wanted.zero_state + 8, "two moments, and two counters"


def test_matrices_under_zero_take_two_exchanges_more() -> None:
    model = COUNT * SIDE * SIDE * 4
    found, _ = zero_step(gf.shard_state(gf.spread(gf.muon(1e-3, ns_steps=1)), mesh()))
    assert found["all-to-all"] == (2, 2 * model // 8)
    assert found["all-gather"] == (COUNT, model)


def test_a_rule_with_factors_exchanges_what_the_page_says() -> None:
    sides = (128, 256)
    tx = gf.shard_state(gf.spread(gf.scale_by_shampoo()), mesh())
    found = sharding.communication(tx, {f"w{i}": on_mesh(sides, P()) for i in range(8)})
    share = sides[0] * sides[1] * 4  # of eight matrices on eight chips
    sent = [row.bytes / share for row in found.rows if row.kind == "all-to-all"]  # those of each step first
    assert tuple(sent) == scale.EXCHANGED["shampoo"].shares(*sides)


@pytest.mark.parametrize("tx", [gf.muon(1e-3), gf.shampoo(1e-3)], ids=["muon", "shampoo"])
def test_each_device_does_its_share_of_the_work(tx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loops, "_FEWEST", 100)  # of a loop XLA counts the work of one turn

    def flops(tx: Any, on: Mesh, spec: Any) -> float:
        leaf = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=NamedSharding(on, spec))
        program = sharding._communication.lower(tx, {f"w{i}": leaf for i in range(8)}, on).compile()
        return float(program.cost_analysis()["flops"])

    alone = flops(tx, Mesh(mesh().devices[:1], ("data",)), P())
    assert flops(gf.spread(tx, mesh(), P("data")), mesh(), P("data")) <= 1.1 * alone / 8


def on_two_axes() -> Mesh:
    return Mesh(mesh().devices.reshape(4, 2), ("x", "y"))


def test_moments_of_leaves_of_one_shape_lie_as_each_of_them() -> None:
    specs = (P("x"), P(None, "y"), P("y", "x"), P())
    params = [
        jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32, sharding=NamedSharding(on_two_axes(), spec))
        for spec in specs
    ]
    compiled = jax.jit(gf.adamw(1e-3).init).lower(params).compile()
    assert [own.spec for own in compiled.output_shardings[0].nu] == list(specs)
    assert compiled.memory_analysis().temp_size_in_bytes == 0


def update_on_two_axes(tx: Any) -> Any:
    """What an update communicates on 4 x 2 chips, with two matrices and a vector."""
    both = on_two_axes()

    def leaf(spec: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(both, spec))

    matrix = leaf(P("x", "y"), SIDE, SIDE // 2)
    return sharding.communication(tx, {"a": matrix, "b": matrix, "bias": leaf(P("y"), SIDE // 2)})


def test_a_guard_takes_its_finiteness_from_the_norm_of_a_clip() -> None:
    clip = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3))
    found, guarded = update_on_two_axes(clip), update_on_two_axes(gf.apply_if_finite(clip, 3))
    assert found.count == 2
    assert guarded.rows == found.rows


def test_factored_averages_are_where_their_sums_are() -> None:
    found = update_on_two_axes(gf.adafactor(1e-3))
    assert {row.kind for row in found.rows} == {"all-reduce"}
    assert found.count == 3, "the vectors along each axis, and the scalars of all"


def test_sums_of_channels_are_added_where_they_are() -> None:
    found = update_on_two_axes(gf.adamp(1e-3))
    assert {row.kind for row in found.rows} == {"all-reduce"}, "no part of a sum is gathered"
    assert found.count == 6, "the largest, two sums with their channels, the largest cosines"


def test_workers_that_train_apart_communicate_in_a_branch_alone() -> None:
    tx = gf.outer(gf.adamw(1e-3), gf.sgd(0.7, 0.9, nesterov=True), 8, axis_name="data")

    def step(params: Any, state: Any, grads: Any) -> Any:
        params, state, grads = jax.tree.map(lambda x: x[0], (params, state, grads))
        u, state = tx.update(grads, state, params)
        return jax.tree.map(lambda x: x[None], (gf.apply_updates(params, u), state))

    def placed(tree: Any) -> Any:
        sharding = NamedSharding(mesh(), P("data"))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((mesh().size, *x.shape), x.dtype, sharding=sharding), tree
        )

    params = {f"w{i}": jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32) for i in range(4)}
    mapped = jax.shard_map(step, mesh=mesh(), in_specs=P("data"), out_specs=P("data"), check_vma=False)
    like = placed((params, jax.eval_shape(tx.init, params), params))
    compiled = jax.jit(mapped, donate_argnums=(0, 1)).lower(*like).compile()
    found = sharding.communication_of(compiled, mesh())
    assert found.step == ()
    assert {(row.kind, row.where, row.bytes) for row in found.rows} == {
        ("all-reduce", "branch", 4 * SIDE * SIDE * 4)
    }


def test_quantized_rules_are_kernels_on_each_chip() -> None:
    """On explicit axes each chip updates whole blocks of its piece in place, and none waits for another."""
    explicit = Mesh(mesh().devices.reshape(4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    here = NamedSharding(explicit, P("x", "y"))
    g = jax.ShapeDtypeStruct((8 * SIDE, 8 * SIDE), jnp.float32, sharding=here)
    for tx in (gf.quantize_state(gf.scale_by_adam()), gf.quantize_state(gf.scale_by_adam(), bits=4)):
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=here if x.ndim else NamedSharding(explicit, P())
            ),
            jax.eval_shape(tx.init, jax.ShapeDtypeStruct(g.shape, g.dtype)),
        )
        lowered = jax.jit(tx.update, donate_argnums=(0, 1)).lower(g, state)
        assert "tpu_custom_call" in lowered.as_text()
        compiled = lowered.compile()
        assert compiled.memory_analysis().temp_size_in_bytes == 0
        assert sharding.communication_of(compiled, explicit).count == 0
