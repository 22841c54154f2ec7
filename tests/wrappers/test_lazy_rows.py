"""Rows without a gradient: torch's SparseAdam in NumPy, and decay that is caught up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(5, 3))
# The rows that are looked up in each step; row 4 never is.
BATCHES = [[0, 2], [2], [1, 2], [0], [2, 3], [0, 1]]
GRADIENTS = [RNG.normal(size=(len(rows), 3)) for rows in BATCHES]


def dense(rows, values):
    g = np.zeros_like(TABLE)
    g[rows] = values
    return jnp.asarray(g)


def sparse_adam(p, rate=0.1, b1=0.9, b2=0.999, eps=1e-15):
    """PyTorch's rule: moments of the rows in the batch alone, bias corrections of the count of all steps."""
    p, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for step, (rows, g) in enumerate(zip(BATCHES, GRADIENTS, strict=True), 1):
        m[rows] += (g - m[rows]) * (1 - b1)
        v[rows] += (g * g - v[rows]) * (1 - b2)
        size = rate * np.sqrt(1 - b2**step) / (1 - b1**step)
        p[rows] -= size * m[rows] / (np.sqrt(v[rows]) + eps)
        yield p.copy(), m.copy(), v.copy()


def test_adam_is_torchs_sparse_adam():
    with jax.enable_x64(True):
        # torch adds eps before the bias correction of the root, so it is made small here.
        tx = gf.lazy_rows(gf.adam(0.1, eps=1e-15))
        params = {"table": jnp.asarray(TABLE), "bias": jnp.ones(3)}
        state = tx.init(params)
        for rows, values, (p, m, v) in zip(BATCHES, GRADIENTS, sparse_adam(TABLE), strict=True):
            grads = {"table": dense(rows, values), "bias": jnp.zeros(3)}
            updates, state = tx.update(grads, state, params)
            absent = np.setdiff1d(range(5), rows)
            assert not np.any(np.asarray(updates["table"])[absent])
            params = gf.apply_updates(params, updates)
            np.testing.assert_allclose(params["table"], p, rtol=1e-11)
            moments = gf.tree.get(state, "mu")["table"], gf.tree.get(state, "nu")["table"]
            np.testing.assert_allclose(moments, (m, v), rtol=1e-12)
        np.testing.assert_array_equal(state.missed["table"], [0, 0, 1, 1, 6])
        assert int(state.missed["bias"]) == 0


def test_decay_is_caught_up_at_the_next_gradient():
    """For decoupled decay without momentum, a row after its gradient is that of the dense optimizer."""
    with jax.enable_x64(True):
        inner = gf.chain(gf.add_decayed_weights(0.5), gf.sgd(0.1))
        plain, lazy = inner, gf.lazy_rows(inner, 0.05)
        p = q = jnp.asarray(TABLE)
        one, other = plain.init(p), lazy.init(q)
        for rows, values in zip(BATCHES, GRADIENTS, strict=True):
            g = dense(rows, values)
            u, one = plain.update(g, one, p)
            w, other = lazy.update(g, other, q)
            p, q = gf.apply_updates(p, u), gf.apply_updates(q, w)
            np.testing.assert_allclose(q[np.array(rows)], p[np.array(rows)], rtol=1e-13)
        np.testing.assert_array_equal(q[4], TABLE[4])
        assert np.abs(p[4] - TABLE[4]).max() > 0.1


def test_rows_of_masked_parts_and_leaves_without_a_gradient():
    tx = gf.lazy_rows(gf.masked(gf.trace(0.9), {"a": True, "b": False}))
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    state = tx.init(params)
    g = {"a": jnp.array([[1.0, 1.0], [0.0, 0.0]]), "b": None}
    _, state = tx.update(g, state, params)
    updates, state = tx.update({"a": g["a"][::-1], "b": None}, state, params)
    assert updates["b"] is None
    np.testing.assert_array_equal(gf.tree.get(state, "trace")["a"], 1)
    np.testing.assert_array_equal(state.missed["b"], [2, 2])


def test_decay_of_low_precision_is_not_rounded_before_it_is_applied():
    tx = gf.lazy_rows(gf.sgd(1e-3), 0.1)
    p = jnp.full((2, 2), 3.0, jnp.bfloat16)
    g = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    _, state = tx.update(g, tx.init(p), p)
    updates, _ = tx.update(jnp.ones((2, 2)), state, p)
    assert updates.dtype == jnp.float32
    np.testing.assert_allclose(updates, [[-1e-3] * 2, [-1e-3 - 0.1 * 3] * 2], rtol=1e-6)


@pytest.mark.parametrize("container", [list, tuple])
def test_sides_of_square_matrices_are_not_rows(container):
    square = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
    params, grads = container([square, square]), container([square, square.at[1:].set(0)])
    tx = gf.scale_by_soap()
    _, plain = tx.update(grads, tx.init(params), params)
    _, lazy = gf.lazy_rows(tx).update(grads, gf.lazy_rows(tx).init(params), params)
    for found, expected in zip(
        jax.tree.leaves(lazy.inner_state.factors), jax.tree.leaves(plain.factors), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
