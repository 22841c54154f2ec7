"""States in the memory of the host: where they lie, the numbers of the device, and the order of moves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from gradflow import sharding
from gradflow.wrappers._one_after_another import one_after_another

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device
HOSTED = pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2), reason="a mesh of CPU devices has no memory of the host"
)
SHAPES = {"a": (16, 8), "b": (8, 16), "c": (8,)}


@functools.cache
def mesh(kind: AxisType = AxisType.Auto) -> Any:
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def tree(seed: int, kind: AxisType | None = None) -> Any:
    rng = np.random.default_rng(seed)
    values = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    return values if kind is None else jax.device_put(values, NamedSharding(mesh(kind), P("data")))


def trained(tx: Any, kind: AxisType | None) -> Any:
    """Parameters and state of three donated steps."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gf.apply_updates(params, updates), state

    params = tree(0, kind)
    state = tx.init(params)
    for seed in (1, 2, 3):
        params, state = step(params, state, tree(seed, kind))
    return params, state


GUARDED = gf.apply_if_finite(gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1)), 3)


@HOSTED
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_numbers_are_those_of_the_device_and_the_state_stays_on_the_host(kind: AxisType) -> None:
    params, state = trained(gf.offload_state(GUARDED, 16), kind)
    expected, its_state = trained(GUARDED, kind)
    for (keys, x), y in zip(
        jax.tree_util.tree_leaves_with_path((params, state)),
        jax.tree.leaves((expected, its_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        is_state = keys[0].idx == 1
        assert jax.typeof(x).memory_space == (HOST if is_state and x.size >= 16 else DEVICE)
        assert x.sharding.is_equivalent_to(y.sharding.with_memory_kind(x.sharding.memory_kind), x.ndim)


@HOSTED
def test_placed_for_restoring_and_under_zero() -> None:
    tx = gf.shard_state(gf.offload_state(gf.adamw(0.1), 16), mesh())
    params = jax.device_put(tree(0), NamedSharding(mesh(), P()))
    found = sharding.state_sharding(tx, params)
    assert found[0].mu["a"] == NamedSharding(mesh(), P("data"), memory_kind="pinned_host")
    state = jax.jit(tx.init)(params)
    assert state[0].nu["b"].sharding == found[0].nu["b"]


def test_where_cpus_have_one_memory_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    tx = gf.offload_state(gf.adamw(0.1), 1)
    state = tx.init(tree(0))
    assert {jax.typeof(x).memory_space for x in jax.tree.leaves(state)} == {DEVICE}
    monkeypatch.setattr(jax, "__version_info__", (0, 8, 1))
    params = tree(0, AxisType.Auto)
    state = tx.init(params)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state)} == {"device"}
    expected, _ = gf.adamw(0.1).update(params, gf.adamw(0.1).init(params), params)
    np.testing.assert_array_equal(tx.update(params, state, params)[0]["a"], expected["a"])


def order(function: Any, *arguments: Any) -> list[str]:
    """The moves and barriers of a traced function, in order."""
    equations = jax.make_jaxpr(lambda *args: one_after_another(function, *args))(*arguments).eqns
    (chosen,) = [e for e in equations if e.params.get("branches_platforms")]
    names = []
    for one in chosen.params["branches"][0].jaxpr.eqns:
        space = one.outvars[0].aval.memory_space
        if one.primitive.name == "device_put":
            names.append("to host" if space == HOST else "to device")
        elif one.primitive.name == "optimization_barrier":
            names.append("wait")
    return names


def test_each_parameter_waits_for_the_one_before() -> None:
    state = jax.device_put([jnp.ones(4)] * 3, HOST)

    @jax.jit
    def halved(x: Any, norm: Any) -> Any:
        return jax.device_put(jax.device_put(x, DEVICE) * norm, HOST)

    def apart(g: Any, state: Any) -> Any:
        return [halved(x, jnp.sum(g)) for x in state]

    one = ["to device", "to host"]
    assert order(apart, jnp.ones(3), state) == [*one, "wait", *one, "wait", *one]

    def together(state: Any) -> Any:
        given = jax.device_put(state, DEVICE)
        return jax.device_put([x * jnp.sum(given[0] + given[1] + given[2]) for x in given], HOST)

    assert "wait" not in order(together, state)


@HOSTED
def test_reports_pass() -> None:
    tx = gf.offload_state(gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1)), 1)
    plain = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    found = gf.with_metrics(tx)
    params = tree(0, AxisType.Auto)
    _, state = jax.jit(found.update)(tree(1, AxisType.Auto), found.init(params), params)
    expected = gf.with_metrics(plain)
    _, other = jax.jit(expected.update)(tree(1, AxisType.Auto), expected.init(params), params)
    assert jax.typeof(state.inner_state[1][0].mu["a"]).memory_space == HOST
    found_metrics, expected_metrics = gf.metrics(state), gf.metrics(other)
    assert len(found_metrics) == len(expected_metrics) > 0
    np.testing.assert_array_equal([*found_metrics.values()], [*expected_metrics.values()])


def test_prints_of_stages_pass(capsys: pytest.CaptureFixture[str]) -> None:
    @gf.stateless
    def shown(updates: Any, params: Any) -> Any:
        jax.debug.print("norm {}", gf.tree.norm(updates) - gf.tree.norm(updates))
        return updates

    tx = gf.offload_state(gf.chain(shown, gf.adamw(0.1)), 16)
    params = tree(0, AxisType.Auto)
    jax.block_until_ready(jax.jit(tx.update)(params, tx.init(params), params))
    jax.effects_barrier()
    assert capsys.readouterr().out == "norm 0.0\n"


@HOSTED
def test_mistakes_are_named() -> None:
    params, tx = tree(0, AxisType.Auto), gf.adamw(0.1)
    state = gf.offload_state(tx, 16).init(params)
    message = r"adamw: argument 'state' must be in the memory of the device; got float32\[16,8\] at '0/mu/a'"
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=message):
            update(params, state, params)
    with pytest.raises(ValueError, match="offload_state: argument 'min_size' must be"):
        gf.offload_state(tx, 0)
    with pytest.raises((TypeError, ValueError), match="offload_state: argument 'min_size' must be"):
        gf.offload_state(tx, "large")
