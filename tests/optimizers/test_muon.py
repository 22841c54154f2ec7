"""Muon against its equations in NumPy: shapes, norms, tables, and leaves that are no matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.linalg import NEWTON_SCHULZ_SAFETY, NEWTON_SCHULZ_TABLES

JORDAN = (3.4445, -4.775, 2.0315)


def polynomials(x: Any, rows: Any) -> Any:
    for a, b, c in rows:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def divided(x: Any, how: str) -> Any:
    if how == "aol":
        return x / np.sqrt(np.abs(x @ x.T).sum(1, keepdims=True))
    s = np.linalg.svd(x, compute_uv=False)
    return x / {"frobenius": np.sum(s**2) ** 0.5, "schatten": np.sum(s**4) ** 0.25, "spectral": s[0]}[how]


def direction(tx: Any, g: Any) -> Any:
    """The first update in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(g)
        return np.asarray(tx.update(x, tx.init(x), x)[0])


@pytest.mark.parametrize("how", ["frobenius", "spectral", "aol", "schatten"])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_each_preconditioning_divides_by_its_norm(how: str, shape: tuple[int, int]) -> None:
    g = np.random.default_rng(0).normal(size=shape)
    wide = g if shape[0] < shape[1] else g.T
    expected = polynomials(divided(wide, how), [JORDAN] * 3)
    u = direction(gf.scale_by_muon(ns_steps=3, preconditioning=how, eps=1e-300), g)
    np.testing.assert_allclose(u, expected if shape[0] < shape[1] else expected.T, rtol=1e-9)
    peer = optax.contrib.scale_by_muon(ns_steps=3, preconditioning=how, eps=1e-300)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        witness, _ = peer.update(jnp.asarray(g), peer.init(jnp.asarray(g)))
    np.testing.assert_allclose(u, witness, rtol=1e-6)


@pytest.mark.parametrize("how", ["frobenius", "spectral", "aol", "schatten"])
def test_phases_of_rows_and_columns_pass_through(how: str) -> None:
    rng = np.random.default_rng(2)
    g = rng.normal(size=(3, 5))
    left, right = np.exp(1j * rng.uniform(0, 6, (3, 1))), np.exp(1j * rng.uniform(0, 6, (1, 5)))
    tx = gf.scale_by_muon(ns_steps=3, preconditioning=how, eps=1e-300)
    np.testing.assert_allclose(direction(tx, left * g * right), left * direction(tx, g) * right, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(NEWTON_SCHULZ_TABLES))
def test_tables_by_name_and_by_rows_agree(name: str) -> None:
    g = np.random.default_rng(1).normal(size=(3, 4))
    margin = NEWTON_SCHULZ_SAFETY.get(name, 1)
    expected = polynomials(divided(g, "frobenius") / margin, NEWTON_SCHULZ_TABLES[name])
    np.testing.assert_allclose(direction(gf.scale_by_muon(name), g), expected, rtol=1e-6)
    if margin == 1:
        rows = jnp.asarray(NEWTON_SCHULZ_TABLES[name])
        np.testing.assert_allclose(direction(gf.scale_by_muon(rows), g), expected, rtol=1e-4)


def test_the_adaptive_update_is_multiplied_by_the_nuclear_norm() -> None:
    g = np.random.default_rng(2).normal(size=(2, 3, 4))
    numbers = gf.MuonDimensionNumbers(1, 2)
    exact = gf.scale_by_muon("quintic", nesterov=False, adaptive=True, weight_dimension_numbers=numbers)
    u, s, v = np.linalg.svd(g, full_matrices=False)
    np.testing.assert_allclose(direction(exact, g), s.sum(-1)[:, None, None] * (u @ v), rtol=1e-6)


@pytest.mark.parametrize("numbers", [(0, 1), (-1, 0), ((0, 2), 1), ((2, 1), 0), ((1,), (3, 0))])
def test_a_tensor_is_a_batch_of_the_matrices_that_its_axes_say(numbers: Any) -> None:
    g = np.random.default_rng(3).normal(size=(2, 3, 4, 2))
    pair = [(a,) if isinstance(a, int) else a for a in numbers]
    first, second = ([i % 4 for i in axes] for axes in pair)
    order = [i for i in range(4) if i not in first + second] + first + second
    moved = g.transpose(order)
    rows, columns = (int(np.prod([g.shape[i] for i in axes])) for axes in (first, second))
    matrices = moved.reshape(-1, rows, columns)
    u, _, v = np.linalg.svd(matrices, full_matrices=False)
    expected = np.sqrt(max(1, columns / rows)) * (u @ v).reshape(moved.shape).transpose(np.argsort(order))
    spec = gf.MuonDimensionNumbers(*numbers)
    tx = gf.chain(gf.scale_by_muon("cubic", weight_dimension_numbers=spec), gf.scale_by_shape(spec))
    np.testing.assert_allclose(direction(tx, g), expected, rtol=1e-5, atol=1e-7)


def test_dimension_numbers_choose_between_muon_and_adam() -> None:
    params = {"embed": jnp.ones((4, 3)), "block": {"qkv": jnp.ones((2, 4, 3)), "bias": jnp.ones((3,))}}
    spec = {"embed": None, "block": {"qkv": gf.MuonDimensionNumbers(1, 2), "bias": None}}
    for numbers in (spec, lambda p: spec):
        tx = gf.muon(1.0, nesterov=False, muon_weight_dimension_numbers=numbers)
        state = tx.init(params)
        muon, adam = (state.inner_states[k].inner_state[0].mu for k in ("muon", "adam"))
        assert [x.shape for x in jax.tree.leaves(muon)] == [(2, 4, 3)]
        assert sorted(x.shape for x in jax.tree.leaves(adam)) == [(3,), (4, 3)]
        updates, state = jax.jit(tx.update)(params, state, params)
        np.testing.assert_allclose(updates["embed"], -1, rtol=1e-5)
        np.testing.assert_allclose(gf.tree.norm(updates["block"]["qkv"][0]), 0.9, atol=0.25)


def test_zeros_empty_leaves_and_absent_ones_give_zeros() -> None:
    params = {"zero": jnp.zeros((3, 4)), "empty": jnp.zeros((0, 4)), "none": None, "row": jnp.zeros((1, 4))}
    for how in ("frobenius", "spectral", "aol", "schatten"):
        tx = gf.muon(0.1, preconditioning=how, adaptive=True)
        updates, state = tx.update(params, tx.init(params), params)
        assert updates["none"] is None
        assert updates["empty"].shape == (0, 4)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_array_equal(leaf, 0)
        one, _ = tx.update({**params, "zero": jnp.ones((3, 4))}, state, params)
        assert np.isfinite(one["zero"]).all()
        assert np.any(one["zero"] != 0)


@pytest.mark.parametrize("make", [gf.scale_by_muon, lambda: gf.normuon(0.1, matrices=gf.Matrix())])
def test_the_largest_float_is_forgotten_by_the_state_and_a_nan_is_not(make: Any) -> None:
    """The debiased average is beyond the range of float32: the update was NaN, and so was the state."""
    params = {"w": jnp.ones((2, 3))}
    tx = make()
    for number, is_finite in ((np.finfo(np.float32).max, True), (np.inf, False), (np.nan, False)):
        grads = {"w": jnp.ones((2, 3)).at[0, 1].set(number)}
        updates, state = tx.update(grads, tx.init(params), params)
        later, _ = tx.update(params, state, params)
        for u in (updates["w"], later["w"]):
            assert bool(jnp.isfinite(u).all()) == is_finite


def test_products_in_bfloat16_are_near_those_in_float32() -> None:
    g = jnp.asarray(np.random.default_rng(4).normal(size=(8, 16)), jnp.float32)
    low, high = (
        gf.scale_by_muon(ns_dtype=d).update(g, gf.scale_by_muon().init(g))[0] for d in ("bfloat16", None)
    )
    assert 0 < float(jnp.max(jnp.abs(low - high))) < 0.03


def test_equal_shapes_are_traced_once() -> None:
    def program(layers: int) -> str:
        params = {f"layer{i}": jnp.ones((8, 12)) for i in range(layers)}
        tx = gf.scale_by_muon()
        return str(jax.make_jaxpr(tx.update)(params, tx.init(params)))

    assert program(6).count("dot_general") == program(1).count("dot_general") == 15


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ns_coeffs": "kelvin"}, "keller"),
        ({"ns_coeffs": (1.0, 2.0)}, "three numbers"),
        ({"ns_coeffs": ((1.0, 2.0, 3.0), (1.0, 2.0))}, "three numbers"),
        ({"ns_coeffs": ()}, "three numbers"),
        ({"preconditioning": "fro"}, "frobenius"),
        ({"ns_steps": 0}, "ns_steps"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        gf.scale_by_muon(**arguments)


def test_leaves_that_are_not_matrices_are_named() -> None:
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones((4,))}
    with pytest.raises(ValueError, match=r"must be a matrix.*'bias'"):
        gf.scale_by_muon().init(params)
    with pytest.raises(ValueError, match=r"'bias'"):
        gf.muon(0.1, muon_weight_dimension_numbers=gf.MuonDimensionNumbers()).init(params)
    with pytest.raises(ValueError, match=r"'kernel'.*\(3, 4\)"):
        gf.muon(
            0.1, muon_weight_dimension_numbers={"kernel": gf.MuonDimensionNumbers(0, 2), "bias": None}
        ).init(params)
    with pytest.raises(ValueError, match=r"must cover every parameter.*'bias'"):
        gf.muon(0.1, muon_weight_dimension_numbers={"kernel": gf.MuonDimensionNumbers()}).init(params)
    with pytest.raises(TypeError, match="MuonDimensionNumbers"):
        gf.muon(0.1, muon_weight_dimension_numbers={"kernel": 1, "bias": None}).init(params)
