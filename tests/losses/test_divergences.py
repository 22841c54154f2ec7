"""Divergences where probabilities are 0, and where they agree."""

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import losses
from losses.cases import compare

INF = np.inf


def test_nothing_times_the_logarithm_of_nothing_is_nothing() -> None:
    log_q = jnp.asarray([[np.log(0.5), np.log(0.5), -INF], [-INF, 0.0, -INF]], jnp.float32)
    p = jnp.asarray([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]], jnp.float32)
    expected = [0.25 * np.log(0.5) + 0.75 * np.log(1.5), 0]
    pairs = [
        (losses.kl_divergence, p),
        (losses.generalized_kl_divergence, p),
        (losses.kl_divergence_with_log_targets, jnp.log(p)),
    ]
    for loss, targets in pairs:
        value, gradients = jax.value_and_grad(lambda q, t, f=loss: f(q, t).sum(), (0, 1))(log_q, targets)
        compare(value, sum(expected), rtol=1e-6)
        compare(loss(log_q, targets), expected, rtol=1e-6, atol=1e-7)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_what_was_held_impossible_costs_infinitely_much() -> None:
    log_q, p = jnp.asarray([0.0, -INF], jnp.float32), jnp.asarray([0.5, 0.5], jnp.float32)
    assert losses.kl_divergence(log_q, p) == INF
    assert losses.generalized_kl_divergence(log_q, p) == INF
    assert losses.kl_divergence_with_log_targets(log_q, jnp.log(p)) == INF
    vanishing = jnp.asarray([0.0, -200.0], jnp.float32)  # exp(-200) is 0 in float32, and not in the reals
    assert losses.kl_divergence_with_log_targets(log_q, vanishing) == INF


def test_equal_measures_are_at_distance_zero() -> None:
    p = jnp.asarray(np.random.default_rng(0).random((1000, 6)) * 3, jnp.float32)
    assert losses.generalized_kl_divergence(jnp.log(p), p).min() >= 0
    compare(losses.generalized_kl_divergence(jnp.log(p), p), 0, atol=3e-6)
    compare(losses.kl_divergence_with_log_targets(jnp.log(p), jnp.log(p)), 0, atol=0)


def test_extreme_logits_through_log_softmax() -> None:
    x = jnp.asarray([[1e4, -1e4, 0.0]], jnp.float32)
    p = jnp.asarray([[0.0, 0.5, 0.5]], jnp.float32)
    value, slope = jax.value_and_grad(lambda x: losses.kl_divergence(jax.nn.log_softmax(x), p).sum())(x)
    compare(value, 1.5e4 + np.log(0.5), rtol=1e-5)
    compare(slope, [[1, -0.5, -0.5]], rtol=1e-6)
