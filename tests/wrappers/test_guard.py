"""apply_if_finite: a bad step is not taken, and costs no copy of the state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from laws.support import assert_close, assert_finite, avals, run

import gradflow as gf

PARAMS = {"w": jnp.arange(4.0), "b": jnp.ones(2)}
GOOD = jax.tree.map(lambda p: p + 1.0, PARAMS)
BAD = {**GOOD, "b": jnp.asarray([1.0, jnp.nan])}
INFINITE = {**GOOD, "w": jnp.asarray([1.0, -jnp.inf, 0.0, 0.0])}


@pytest.mark.parametrize("bad", [BAD, INFINITE])
def test_after_a_bad_step_the_next_ones_are_as_if_it_had_not_been(bad: Any) -> None:
    plain = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    guarded = gf.apply_if_finite(plain, 3)
    expected, _, _ = run(plain, PARAMS, [GOOD, GOOD, GOOD])
    history, params, state = run(guarded, PARAMS, [GOOD, bad, GOOD, bad, GOOD])
    assert_finite((history, params, state))
    for step in (1, 3):
        assert all(np.all(u == 0) for u in jax.tree.leaves(history[step]))
    for got, want in zip((history[0], history[2], history[4]), expected, strict=True):
        assert_close(got, want)
    assert int(state.total_notfinite) == 2
    assert bool(state.last_finite)


def test_the_streak_begins_anew_after_giving_up() -> None:
    tx = gf.apply_if_finite(gf.scale(1.0), 2)
    state = tx.init(PARAMS)
    counts, taken = [], []
    for g in (BAD, BAD, BAD, BAD, GOOD, BAD):
        updates, state = tx.update(g, state, PARAMS)
        counts.append(int(state.notfinite_count))
        taken.append(bool(np.any(updates["w"] != 0)))
    assert counts == [1, 2, 0, 1, 0, 1]
    assert taken == [False, False, True, False, True, False]
    assert int(state.total_notfinite) == 5


def test_reports_of_a_step_not_taken_are_nan() -> None:
    tx = gf.with_metrics(gf.apply_if_finite(gf.chain(gf.clip_by_global_norm(1.0)), 3))
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(GOOD, state, PARAMS)
    seen = gf.metrics(state)
    np.testing.assert_allclose(
        seen["chain.clip_by_global_norm.norm"], np.sqrt(1 + 4 + 9 + 16 + 4 + 4), rtol=1e-6
    )
    assert seen["skipped"] == 0.0
    before = avals(state)
    _, state = jax.jit(tx.update)(BAD, state, PARAMS)
    assert np.isnan(gf.metrics(state)["chain.clip_by_global_norm.norm"])
    assert gf.metrics(state)["skipped"] == 1.0
    assert avals(state) == before


def test_complex_and_half_precision_numbers_are_looked_at() -> None:
    tx = gf.apply_if_finite(gf.scale(1.0), 3)
    for dtype, bad in [(jnp.complex64, 1j * np.nan), (jnp.bfloat16, np.inf), (jnp.float16, np.nan)]:
        params = {"w": jnp.ones(3, dtype)}
        _, state = tx.update({"w": params["w"].at[1].set(bad)}, tx.init(params), params)
        assert not bool(state.last_finite)


def test_devices_decide_together_or_the_call_is_refused() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    grads = jnp.ones((16, 2)).at[3, 0].set(jnp.nan)

    def local(g: Any, tx: Any) -> Any:
        return tx.update(g, tx.init(g), g)[0]

    def mapped(tx: Any) -> Any:
        return jax.shard_map(lambda g: local(g, tx), mesh=mesh, in_specs=P("x"), out_specs=P("x"))(grads)

    with pytest.raises(ValueError, match=r"apply_if_finite: inside shard_map.*axis_name='x'"):
        mapped(gf.apply_if_finite(gf.scale(1.0), 3))
    np.testing.assert_array_equal(mapped(gf.apply_if_finite(gf.scale(1.0), 3, axis_name="x")), 0.0)


@pytest.mark.parametrize("wrong", [-1, 1.5, None, "3", True])
def test_wrong_arguments(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="apply_if_finite: argument 'max_consecutive_errors'"):
        gf.apply_if_finite(gf.scale(1.0), wrong)


def test_a_guard_around_a_stage_that_averages_examples() -> None:
    params = {"w": jnp.ones(3)}
    per_example = {"w": jnp.stack([jnp.ones(3), 3 * jnp.ones(3)])}
    tx = gf.apply_if_finite(gf.dpsgd(0.1, 100.0, 0.0, jax.random.key(0)), 3)
    for bad in (False, True):
        grads = jax.tree.map(lambda g, bad=bad: g * jnp.where(bad, jnp.nan, 1.0), per_example)
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        np.testing.assert_allclose(updates["w"], 0.0 if bad else -0.2, rtol=1e-6)


@gf.transformation
def squares_without_bounds() -> Any:
    """Divides by the root of a running square, which a spike of 1e30 makes infinite."""

    def init(params: Any) -> gf.TraceState:
        return gf.TraceState((jnp.ones(4), jnp.asarray(jnp.inf)))

    def update(updates: Any, state: gf.TraceState, params: Any = None) -> Any:
        square, smallest = state.trace
        square = 0.9 * square + updates**2
        return updates / jnp.sqrt(square), gf.TraceState((square, jnp.minimum(smallest, jnp.max(square))))

    return init, update


def test_a_finite_spike_leaves_a_finite_state_where_the_state_is_checked() -> None:
    """A number that is infinite on purpose, such as a smallest one so far, is not a failure."""
    params = jnp.arange(1.0, 5.0)
    spike = params.at[2].set(1e30)
    for check, finite in ((False, False), (True, True)):
        tx = gf.apply_if_finite(squares_without_bounds(), 1, check_state=check)
        state = tx.init(params)
        update = jax.jit(tx.update)
        _, state = update(params, state, params)
        updates, after = update(spike, state, params)
        assert np.all(np.isfinite(after.inner_state.trace[0])) == finite
        assert int(after.total_notfinite) == finite
    assert not np.any(updates)
    for old, new in zip(jax.tree.leaves(state.inner_state), jax.tree.leaves(after.inner_state), strict=True):
        np.testing.assert_array_equal(old, new)
    expected, _ = update(params, state, params)
    np.testing.assert_array_equal(update(params, after, params)[0], expected)
    _, given_up = update(spike, after, params)
    assert not np.all(np.isfinite(given_up.inner_state.trace[0])), "the second in a row is applied"


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.nan, jnp.inf, -jnp.inf])
def test_one_bad_number_among_thousands_is_seen(bad: float) -> None:
    params = jnp.ones((64, 64))
    tx = gf.apply_if_finite(gf.sgd(0.1), 3)
    updates, state = tx.update(params.at[3, 4].set(bad), tx.init(params), params)
    assert not state.last_finite
    assert np.all(updates == 0)
