"""flatten: what the inner transformation sees, and what comes back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf

PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "s": jnp.ones(()), "e": jnp.ones((0, 2)), "n": None}


def test_the_inner_one_sees_one_vector() -> None:
    seen: list[Any] = []

    def look(updates: Any, params: Any) -> Any:
        seen.append((updates, params))
        return updates

    tx = gf.flatten(gf.chain(gf.stateless(look), gf.trace(0.5)))
    state = tx.init(PARAMS)
    assert state[1].trace.shape == (7,)
    grads = jax.tree.map(lambda p: 2 * p, PARAMS)
    updates, _ = tx.update(grads, state, PARAMS)
    vector, params = seen[0]
    np.testing.assert_array_equal(vector, [2, 0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(params, [1, 0, 1, 2, 3, 4, 5])
    jax.tree.map(np.testing.assert_array_equal, updates, grads)


def test_mixed_dtypes_meet_in_the_widest_and_come_back_in_their_own() -> None:
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float16), "z": jnp.ones(2, jnp.complex64)}
    tx = gf.flatten(gf.adam(0.1))
    for keys, dtype in (("ab", jnp.float32), ("az", jnp.complex64)):
        some = {k: params[k] for k in keys}
        state = tx.init(some)
        assert state[0].mu.dtype == dtype
        updates, _ = tx.update(some, state, some)
        assert {k: u.dtype for k, u in updates.items()} == {k: p.dtype for k, p in some.items()}
        np.testing.assert_allclose(np.complex64(updates["a"]), -0.1, rtol=1e-2)


def test_no_gradient_is_no_update_and_counts_as_zero() -> None:
    tx = gf.flatten(gf.trace(0.5))
    state = tx.init(PARAMS)
    updates, after = tx.update({**PARAMS, "w": None}, state, PARAMS)
    assert updates["w"] is None
    assert float(updates["s"]) == 1.0
    np.testing.assert_array_equal(after.trace, [1, 0, 0, 0, 0, 0, 0])
    updates, _ = tx.update({**PARAMS, "s": None}, state, PARAMS)
    np.testing.assert_array_equal(updates["w"], PARAMS["w"])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_updates_are_sharded_like_the_leaves(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        specs = {"w": NamedSharding(mesh, P("x", None)), "v": NamedSharding(mesh, P(None, "x"))}
        params = jax.device_put({"w": jnp.ones((16, 4)), "v": jnp.ones((3, 8))}, specs)
        tx = gf.flatten(gf.adamw(0.1))
        state = tx.init(params)
        for update in (tx.update, jax.jit(tx.update)):
            updates, _ = update(params, state, params)
            for name, sharding in specs.items():
                assert updates[name].sharding.is_equivalent_to(sharding, 2), name


def test_mistakes_are_named_by_path() -> None:
    tx = gf.flatten(gf.sgd(0.1))
    with pytest.raises(TypeError, match=r"flatten: parameters must be floating-point.* at 'ids'"):
        tx.init({"ids": jnp.arange(3)})
    with pytest.raises(ValueError, match=r"equal shapes; got .* at 's'"):
        tx.update({**PARAMS, "s": jnp.ones(3)}, tx.init(PARAMS), PARAMS)
