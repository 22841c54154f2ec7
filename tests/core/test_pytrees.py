"""Transformations as pytrees: their arrays are leaves, and everything else is structure."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.array([1.0, -2.0])}
GRADS = {"w": jnp.array([0.5, 0.25])}


def step(tx: Any) -> Any:
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]["w"]


def nested(rate: Any, decay: Any) -> Any:
    return gf.MultiSteps(
        gf.chain(gf.clip(1.0), gf.partition({"**": gf.adamw(gf.constant_schedule(rate), b1=decay)})), 1
    )


def test_arrays_are_leaves_and_numbers_are_structure() -> None:
    rate, decay = jnp.asarray(0.1), jnp.asarray(0.8)
    tx = nested(rate, decay)
    leaves, structure = jax.tree.flatten(tx)
    assert {id(leaf) for leaf in leaves} == {id(rate), id(decay)}
    assert structure == jax.tree.structure(nested(jnp.asarray(0.2), jnp.asarray(0.7)))
    assert hash(structure) == hash(jax.tree.structure(nested(jnp.asarray(0.2), jnp.asarray(0.7))))
    assert structure != jax.tree.structure(nested(jnp.asarray(0.2), 0.7))
    assert jax.tree.unflatten(structure, leaves) == tx
    assert isinstance(jax.tree.unflatten(structure, leaves), gf.MultiSteps)
    plain = nested(0.1, 0.8)
    assert jax.tree.leaves(plain) == []
    assert jax.tree.map(lambda x: x, plain) is plain
    assert jax.tree.structure(plain) != jax.tree.structure(nested(0.2, 0.8))


def test_a_transformation_goes_through_jit_grad_and_vmap() -> None:
    traced = []

    @jax.jit
    def compiled(tx: Any) -> Any:
        traced.append(tx)
        return step(tx)

    for rate in (0.1, 0.3):
        np.testing.assert_allclose(compiled(gf.adamw(jnp.asarray(rate))), step(gf.adamw(rate)), rtol=1e-6)
    assert len(traced) == 1
    slope = jax.grad(lambda tx: -jnp.sum(step(tx)))(gf.sgd(jnp.asarray(0.1)))
    np.testing.assert_allclose(jax.tree.leaves(slope), [0.75])
    rates = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), gf.sgd(jnp.asarray(0.1)))
    np.testing.assert_allclose(jax.vmap(step)(rates), [-0.1 * GRADS["w"], -0.2 * GRADS["w"]], rtol=1e-6)


def test_a_negative_gradient_or_tangent_is_not_warned_of() -> None:
    tx = gf.sgd(jnp.asarray(0.125), momentum=jnp.asarray(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slope = jax.jit(jax.grad(lambda tx: jnp.sum(step(tx))))(tx)
        np.testing.assert_allclose(jax.tree.leaves(slope), [-0.75, 0.0])
        negated = jax.tree.map(jnp.negative, tx)
        np.testing.assert_array_equal(jax.tree.leaves(negated), [-0.125, -0.5])
        assert "sgd with the leaves" in repr(negated)
        assert "-0.0625" in repr(jax.tree.map(lambda x: -x / 2, gf.sgd(jnp.asarray(0.125))))
    with pytest.warns(UserWarning, match=r"-0\.0625 is negative"):
        gf.sgd(jnp.asarray(-0.0625))


def test_other_leaves_keep_their_places_until_the_arrays_return() -> None:
    tx = gf.sgd(jnp.asarray(0.1))
    emptied = jax.tree.map(lambda _: "a mark", tx)
    assert jax.tree.structure(emptied) == jax.tree.structure(tx)
    with pytest.raises(TypeError, match=r"sgd: leaves of a transformation must be arrays.*; got str"):
        emptied.init(PARAMS)
    assert jax.tree.map(lambda _, x: x, emptied, tx) == tx


def test_a_pair_of_functions_has_them_as_leaves() -> None:
    pair = gf.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    assert jax.tree.leaves(pair) == [pair.init, pair.update]
    assert jax.tree.map(lambda x: x, pair) == pair


def test_a_library_that_splits_arrays_compiles_once_for_two_rates() -> None:
    eqx = pytest.importorskip("equinox")
    traced = []

    @eqx.filter_jit
    def compiled(tx: Any) -> Any:
        traced.append(tx)
        return step(tx)

    for rate in (0.1, 0.3):
        np.testing.assert_allclose(compiled(gf.sgd(jnp.asarray(rate))), -rate * GRADS["w"], rtol=1e-6)
    assert len(traced) == 1
    arrays, rest = eqx.partition(gf.sgd(jnp.asarray(0.1)), eqx.is_array)
    np.testing.assert_allclose(step(eqx.combine(arrays, rest)), -0.1 * GRADS["w"], rtol=1e-6)
