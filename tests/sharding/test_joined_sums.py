"""Sums that wait for others, on eight CPU devices: the same numbers and derivatives, in another order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from gradflow import sharding

MESH = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def trees(on_mesh: bool) -> tuple[Any, Any]:
    """Gradients and parameters: three leaves of one type, so that their sums are joined."""
    draws = [np.random.default_rng(seed).normal(size=(3, 16, 8)).astype(np.float32) for seed in (0, 1)]
    place = NamedSharding(MESH, P("x", "y")) if on_mesh else jax.devices()[0]
    grads, params = ({f"w{i}": jax.device_put(x, place) for i, x in enumerate(draw)} for draw in draws)
    return grads, params


def size_of_update(rate: Any, on_mesh: bool) -> jax.Array:
    grads, params = trees(on_mesh)
    tx = gf.step_on_hyperball(rate)
    updates, _ = tx.update(grads, tx.init(params), params)
    return gf.tree.norm(updates)


def test_numbers_and_derivatives_are_those_of_one_device() -> None:
    def both_ways(rate: Any, on_mesh: bool) -> tuple[jax.Array, ...]:
        def f(r: Any) -> jax.Array:
            return size_of_update(r, on_mesh)

        return *jax.value_and_grad(f)(rate), *jax.jvp(f, (rate,), (rate,))

    rates = jnp.asarray([0.0, 0.02, 0.5], np.float32)
    here, there = (jax.jit(jax.vmap(lambda r, on=on: both_ways(r, on)))(rates) for on in (False, True))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-5, atol=1e-6)


def test_a_stage_that_prints_still_prints() -> None:
    """A trace with effects stays in the order in which it is written."""
    seen: set[int] = set()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        total = sum(jnp.sum(jnp.square(u)) for u in jax.tree.leaves(updates))
        jax.debug.callback(lambda _: seen.add(1), total)
        return updates, state

    tx = gf.chain(gf.GradientTransformation(lambda params: (), update), gf.step_on_hyperball(0.1))
    grads, params = trees(on_mesh=True)
    jax.block_until_ready(jax.jit(tx.update)(grads, tx.init(params), params))
    jax.effects_barrier()
    assert seen == {1}


def test_scopes_keep_their_names() -> None:
    """Profiles name operations by `jax.named_scope`, of functions that are jitted inside too."""

    @jax.jit
    def inner(u: jax.Array) -> jax.Array:
        with jax.named_scope("within"):
            return jnp.sin(u)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.named_scope("mine"):
            return jax.tree.map(inner, updates), state

    grads, params = trees(on_mesh=True)
    for last in (gf.step_on_hyperball(0.1), gf.sgd(0.1)):
        tx = gf.chain(gf.GradientTransformation(lambda params: (), update), last)
        text = jax.jit(tx.update).lower(grads, tx.init(params), params).as_text(debug_info=True)
        assert "mine" in text
        assert "within/sin" in text


def test_an_accelerators_program_is_left_alone(monkeypatch: Any) -> None:
    """Only the devices' kind decides: with the order as it is written, a CPU has collectives per leaf."""
    params = {f"w{i}": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(MESH, P("x", "y")))
              for i in range(4)}  # fmt: skip
    tx = gf.step_on_hyperball(0.1)
    joined = sharding.communication(tx, params).count
    monkeypatch.setattr("gradflow._core._joined_sums.is_on_cpus", lambda x: False)
    apart = sharding.communication(tx, params).count
    assert (joined, apart) == (4, 10)
