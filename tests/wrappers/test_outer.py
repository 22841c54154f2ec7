"""outer, ema_nesterov and with_tail_average against their equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import Memory, assert_follows
from jax.sharding import AxisType

import gradflow as gf


def _follow(inner: Any, m: Memory, g: Any, p: Any, t: int, period: int, outer: Any) -> Any:
    slow = m.setdefault("slow", p)
    u = inner(m, g)
    if t % period:
        return u
    m["slow"] = slow + outer(m, slow - (p + u))
    return m["slow"] - p


def _momentum(m: Memory, g: Any) -> Any:
    m["trace"] = 0.9 * m.get("trace", 0) + g
    return -0.1 * m["trace"]


def _nesterov(m: Memory, s: Any) -> Any:
    m["b"] = 0.9 * m.get("b", 0) + s
    return -0.7 * (0.9 * m["b"] + s)


def lookahead(m: Memory, g: Any, p: Any, t: int) -> Any:
    return _follow(_momentum, m, g, p, t, 3, lambda m, s: -0.5 * s)


def diloco(m: Memory, g: Any, p: Any, t: int) -> Any:
    return _follow(_momentum, m, g, p, t, 4, _nesterov)


def test_lookahead() -> None:
    assert_follows(lookahead, gf.outer(gf.sgd(0.1, 0.9), gf.sgd(0.5), 3))


def test_snoo() -> None:
    assert_follows(diloco, gf.outer(gf.sgd(0.1, 0.9), gf.sgd(0.7, 0.9, nesterov=True), 4))


def test_it_is_the_lookahead_of_two_trees() -> None:
    weights = {"w": jnp.arange(6.0).reshape(2, 3)}
    one, two = gf.outer(gf.adam(0.1), gf.sgd(0.25), 2), gf.lookahead(gf.adam(0.1), 2, 0.25)
    params, pair = weights, gf.LookaheadParams.init_synced(weights)
    state, other = one.init(params), two.init(pair)
    for seed in range(5):
        g = {"w": jax.random.normal(jax.random.key(seed), (2, 3))}
        u, state = one.update(g, state, params)
        params = gf.apply_updates(params, u)
        u, other = two.update(g, other, pair)
        pair = gf.apply_updates(pair, u)
        np.testing.assert_allclose(params["w"], pair.fast["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.slow["w"], pair.slow["w"], rtol=1e-5, atol=1e-6)


def test_workers_go_apart_and_meet_at_the_mean() -> None:
    """Two workers under vmap: they communicate at a synchronization only, and are equal after it."""

    def mean(drift: Any, _: Any) -> Any:
        return jax.lax.pmean(drift, "workers")

    tx = gf.outer(gf.sgd(0.1), gf.chain(gf.stateless(mean), gf.sgd(1.0)), 2)
    start = jnp.asarray([1.0, -2.0])
    grads = jnp.asarray([[[1.0, 0.0], [0.5, 1.0]], [[3.0, 2.0], [-1.0, 1.0]]])  # worker, step, parameter

    def work(grads: Any) -> Any:
        params, state, seen = start, tx.init(start), []
        for g in grads:
            u, state = tx.update(g, state, params)
            params = gf.apply_updates(params, u)
            seen.append(params)
        return jnp.stack(seen)

    seen = jax.vmap(work, axis_name="workers")(grads)
    alone = np.asarray(start) - 0.1 * np.asarray(grads[:, 0])
    np.testing.assert_allclose(seen[:, 0], alone, rtol=1e-6)
    np.testing.assert_allclose(seen[0, 1], start - 0.1 * jnp.mean(jnp.sum(grads, 1), 0), rtol=1e-6)
    np.testing.assert_array_equal(seen[0, 1], seen[1, 1])


def look_ahead(m: Memory, g: Any, p: Any, t: int) -> Any:
    x = m.get("x", p)
    m["x"] = p + _momentum(m, g)
    m["m"] = 0.8 * m.get("m", 0) + 0.2 * (m["x"] - x)
    return m["x"] + (0.3 / t) * m["m"] - p


WORKERS = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))
P = jax.sharding.PartitionSpec


def workers_step(tx: Any) -> Any:
    """A step of eight workers, each with parameters and a state of its own along the first axis."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        params, state, grads = jax.tree.map(lambda x: x[0], (params, state, grads))
        u, state = tx.update(grads, state, params)
        return jax.tree.map(lambda x: x[None], (gf.apply_updates(params, u), state))

    # Counters do not vary along the axis; they are held for each worker like all else.
    return jax.jit(
        jax.shard_map(step, mesh=WORKERS, in_specs=P("workers"), out_specs=P("workers"), check_vma=False)
    )


def for_workers(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.stack([x] * 8), tree)


def test_workers_on_a_mesh_communicate_in_a_branch_alone() -> None:
    weights = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    tx = gf.outer(gf.adam(0.1), gf.sgd(0.7, 0.9, nesterov=True), 4, axis_name="workers")
    like = for_workers(weights), for_workers(tx.init(weights)), for_workers(weights)
    placed = jax.device_put(like, jax.sharding.NamedSharding(WORKERS, P("workers")))
    found = gf.sharding.communication_of(workers_step(tx).lower(*placed).compile(), WORKERS)
    assert found.step == ()
    assert [(row.kind, row.axes, row.count, row.bytes) for row in found.rows] == [
        ("all-reduce", ("workers",), 1, 4 * (4 * 8 + 8))
    ]


def test_each_step_with_a_rate_of_one_is_the_average_of_the_workers() -> None:
    weights = {"w": jnp.arange(6.0)}
    tx = gf.outer(gf.sgd(0.1), gf.sgd(1.0), 1, axis_name="workers")
    grads = {"w": jax.random.normal(jax.random.key(0), (8, 6))}
    params, state = for_workers((weights, tx.init(weights)))
    params, _ = workers_step(tx)(params, state, grads)
    wanted = weights["w"] - 0.1 * grads["w"].mean(0)
    np.testing.assert_allclose(params["w"], np.stack([wanted] * 8), rtol=1e-6, atol=1e-7)


def test_an_axis_that_no_caller_has_is_named() -> None:
    tx, w = gf.outer(gf.sgd(0.1), gf.sgd(1.0), 1, axis_name="workers"), {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="outer: argument 'axis_name' must name axes of an enclosing"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(TypeError, match="outer: argument 'axis_name' must be None, the name of a mesh axis"):
        gf.outer(gf.sgd(0.1), gf.sgd(1.0), 1, axis_name=3)


def test_ema_nesterov() -> None:
    tx = gf.ema_nesterov(gf.sgd(0.1, 0.9), 0.8, lambda count: 0.3 / (count.astype(float) + 1))
    assert_follows(look_ahead, tx)


def test_a_tail_average_is_mixed_into_the_parameters_for_evaluation() -> None:
    tx = gf.with_tail_average(gf.sgd(0.1), horizon=5.0, share=0.6)
    with jax.enable_x64(True):
        params = {"w": jnp.asarray([1.0, -2.0, 3.0])}
        state = tx.init(params)
        np.testing.assert_array_equal(gf.eval_params(state, params)["w"], params["w"])
        total, weight = np.zeros(3), 0.0
        for t in range(6):
            u, state = tx.update({"w": jnp.asarray([1.0, 0.5, -1.0]) * t}, state, params)
            params = gf.apply_updates(params, u)
            total = 0.8 * total + 0.2 * np.asarray(params["w"])
            weight = 0.8 * weight + 0.2
        expected = 0.4 * np.asarray(params["w"]) + 0.6 * total / weight
        np.testing.assert_allclose(gf.eval_params(state, params)["w"], expected, rtol=1e-12)


def test_an_average_around_a_look_ahead_around_an_outer_loop() -> None:
    inner = gf.chain(gf.row_floor(), gf.step_with_radial_brake(0.01, weight_decay=0.025))
    tx = gf.with_tail_average(gf.ema_nesterov(gf.outer(inner, gf.sgd(0.5), 2)))
    params = {"w": jnp.ones((3, 2))}
    state = tx.init(params)
    for _ in range(3):
        u, state = tx.update({"w": jnp.ones((3, 2))}, state, params)
        params = gf.apply_updates(params, u)
    assert gf.check(tx, params).ok
    assert not np.allclose(gf.eval_params(state, params)["w"], params["w"])
