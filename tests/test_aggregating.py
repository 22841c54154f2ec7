"""Gradients of examples: means, variances, several batches, against NumPy over all examples at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import aggregating

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3), "none": None}


def batch(count: int) -> Any:
    shapes = {"w": (count, 2, 3), "b": (count, 3)}
    return {**{k: jnp.asarray(1 + RNG.normal(size=s), jnp.float32) for k, s in shapes.items()}, "none": None}


def test_the_mean_over_axes_of_examples() -> None:
    grads = batch(6)
    tx = aggregating.average_per_element_updates()
    assert isinstance(tx, aggregating.Aggregator)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], np.asarray(grads["w"]).mean(0), rtol=1e-5)
    assert updates["none"] is None
    split = jax.tree.map(lambda g: g.reshape(2, 3, *g.shape[1:]), grads)
    both = aggregating.average_per_element_updates((0, 1))
    again, _ = both.update(split, both.init(PARAMS), PARAMS)
    np.testing.assert_allclose(again["w"], updates["w"], rtol=1e-5)
    assert aggregating.get_batch_size_from_per_elt_updates(split, [0, 1]) == 6
    half = {"w": jnp.full((1000, 2), 100.0, jnp.float16)}
    mean, _ = tx.update(half, gf.EmptyState(), {"w": jnp.ones(2, jnp.float16)})
    np.testing.assert_array_equal(mean["w"], jnp.full(2, 100.0, jnp.float16))


def test_several_batches_make_one_step() -> None:
    batches = [batch(4) for _ in range(6)]
    tx = aggregating.process(
        gf.identity(), aggregating.average_incrementally_updates(0, 3), gf.sgd(1.0, momentum=0.5)
    )
    plain = gf.sgd(1.0, momentum=0.5)
    state, other = tx.init(PARAMS), plain.init(PARAMS)
    for t, grads in enumerate(batches):
        updates, state = jax.jit(tx.update)(grads, state, PARAMS)
        if t % 3 == 2:
            mean = jax.tree.map(lambda *g: jnp.concatenate(g).mean(0), *batches[t - 2 : t + 1])
            expected, other = plain.update(mean, other, PARAMS)
            np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5)
            np.testing.assert_allclose(updates["b"], expected["b"], rtol=1e-5)
        else:
            np.testing.assert_array_equal(updates["w"], 0.0)
        assert bool(gf.tree.get(state, "ready")) == (t % 3 == 2)
    assert aggregating.accumulate_avg_updates(1).init(PARAMS) == gf.EmptyState()


@pytest.mark.parametrize("steps", [1, 3])
def test_mean_and_variance_are_those_of_all_examples(steps: int) -> None:
    batches = [batch(4) for _ in range(2 * steps)]
    tx = aggregating.add_mean_variance_to_opt(gf.sgd(1.0), ema_decay=0.6, accumulation_steps=steps)
    state = tx.init(PARAMS)
    mean, variance = aggregating.get_unbiased_mean_and_variance_ema(state)
    np.testing.assert_array_equal(mean["w"], 0.0)
    for grads in batches:
        updates, state = jax.jit(tx.update)(grads, state, PARAMS)
    rounds = [
        np.concatenate([np.asarray(b["w"], np.float64) for b in batches[k * steps : (k + 1) * steps]])
        for k in range(2)
    ]
    np.testing.assert_allclose(updates["w"], -rounds[1].mean(0), rtol=1e-5)
    mean, variance = aggregating.get_unbiased_mean_and_variance_ema((state, ()))
    weights = np.asarray([0.6 * 0.4, 0.4]) / (1 - 0.36)
    expected = (mean, [r.mean(0) for r in rounds]), (variance, [r.var(0, ddof=1) for r in rounds])
    for actual, values in expected:
        np.testing.assert_allclose(actual["w"], weights[0] * values[0] + weights[1] * values[1], rtol=1e-5)


def test_one_example_has_no_variance() -> None:
    tx = aggregating.add_mean_variance_to_opt(gf.sgd(1.0))
    _, state = tx.update(batch(1), tx.init(PARAMS), PARAMS)
    _, variance = aggregating.get_unbiased_mean_and_variance_ema(state)
    np.testing.assert_array_equal(variance["w"], 0.0)


def test_an_aggregator_made_by_hand_and_a_stage_for_each_example() -> None:
    clip = jax.vmap(lambda g: gf.clip_by_global_norm(1.0).update(g, gf.EmptyState())[0])
    largest = aggregating.Aggregator(
        gf.init_empty_state, lambda gs, state, _: (jax.tree.map(lambda g: g.max(0), gs), state)
    )
    tx = aggregating.process(gf.stateless(lambda gs, _: clip(gs)), largest, gf.scale(-1.0))
    assert isinstance(tx, aggregating.Aggregator)
    grads = {"w": jnp.asarray([[3.0, 4.0], [0.3, 0.4]])}
    params = {"w": jnp.zeros(2)}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)
    chained = gf.chain(tx, gf.scale(2.0))
    updates, _ = chained.update(grads, chained.init(params), params)
    np.testing.assert_allclose(updates["w"], [-1.2, -1.6], rtol=1e-6)


def test_mistakes_are_named() -> None:
    tx = aggregating.average_per_element_updates()
    for wrong, words in (
        ({**batch(4), "b": jnp.ones((3, 3))}, r"must have .* examples, like other leaves; got .* at 'w'"),
        ({**batch(4), "b": jnp.ones(())}, "must have examples along axis 0; got .* at 'b'"),
        (batch(0), "must have at least one example"),
    ):
        with pytest.raises(ValueError, match=words):
            tx.update(wrong, tx.init(PARAMS), PARAMS)
    plain = aggregating.process(gf.identity(), tx, gf.sgd(0.1))
    with pytest.raises(ValueError, match="aggregated updates and params must have equal shapes"):
        plain.update({**batch(4), "b": jnp.ones((4, 2))}, plain.init(PARAMS), PARAMS)
    without = aggregating.process(gf.identity(), tx, gf.sgd(0.1), aggregator_has_aux=True)
    with pytest.raises(TypeError, match=r"updates must be a pair \(updates, dict\)"):
        without.update(batch(4), without.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match="a tuple of 3 states"):
        plain.update(batch(4), gf.EmptyState(), PARAMS)
    with pytest.raises(TypeError, match="average_per_element_updates: argument 'per_elt_axis'"):
        aggregating.average_per_element_updates(None)
    with pytest.raises(ValueError, match="argument 'per_elt_axis' must name an axis once"):
        aggregating.average_per_element_updates((0, 0))
    twice = aggregating.average_per_element_updates((0, -1))
    with pytest.raises(ValueError, match="must have examples along axes 0, -1"):
        twice.update({name: jnp.ones((3,)) for name in PARAMS}, twice.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="get_unbiased_mean_and_variance_ema: argument 'state' must have"):
        aggregating.get_unbiased_mean_and_variance_ema(gf.sgd(0.1).init(PARAMS))


def test_means_of_the_largest_numbers_are_finite() -> None:
    most = float(jnp.finfo(jnp.float32).max)
    g = jnp.array([[most, 3.0], [most, 6.0], [most, 9.0]], jnp.float32)
    tx = aggregating.average_per_element_updates(0)
    mean, _ = tx.update(g, tx.init(g[0]))
    np.testing.assert_allclose(mean, [most, 6.0], rtol=3e-7)
    tx = aggregating.get_per_element_mean_and_sum_sq_diff_grads(0)
    (_, aux), _ = tx.update(g, tx.init(g[0]))
    np.testing.assert_allclose(aux["sum_sq_diff_grads"][1], 18.0, rtol=1e-6)
    assert np.isfinite(aux["sum_sq_diff_grads"]).all()


@pytest.mark.parametrize(
    "tx",
    [
        aggregating.accumulate_avg_updates(2),
        aggregating.average_incrementally_updates(0, 2),
        aggregating.get_per_element_mean_and_sum_sq_diff_grads(0, 2),
    ],
)
def test_the_mean_of_opposite_largest_numbers_is_zero(tx: Any) -> None:
    largest = np.float32([np.finfo(np.float32).max, 1.0])
    state = tx.init(jnp.zeros(2))
    for sign in (1, -1):
        g = sign * largest
        result, state = tx.update(g if "accumulate" in repr(tx) else g[None], state)
    mean, *_ = jax.tree.leaves(result)
    np.testing.assert_array_equal(mean, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((result, state)))
