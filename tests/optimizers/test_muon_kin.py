"""Optimizers of matrices against their equations in NumPy."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks import matrix_rules as rules
from benchmarks import race
from benchmarks.oracle_errors import CASES, oracle_error, trajectory

RNG = np.random.default_rng(0)


def test_splus_takes_signs_in_the_eigenvectors_of_earlier_gradients() -> None:
    p, grads = RNG.normal(size=(5, 5)), [RNG.normal(size=(5, 5)) for _ in range(7)]
    tx = gf.chain(gf.scale_by_splus(0.8, 0.9, 3), gf.add_decayed_weights(0.02), gf.scale(-0.1))
    expected = rules.splus(p, grads, 0.1, 0.8, 0.9, 3, 0.02)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12)


def test_splus_is_its_parts() -> None:
    params = {"w": jnp.ones((4, 6)), "embedding": jnp.ones((9, 4)), "b": jnp.zeros((3,))}
    grads = jax.tree.map(lambda p: p - 0.5, params)
    tx = gf.splus(0.1, max_dim=5, ema_rate=0.9)
    state = tx.init(params)
    u, state = tx.update(grads, state, params)
    # The longer side of w has no basis, so it has the constant too.
    for name, sign in (("w", 1), ("embedding", 1), ("b", -1)):
        np.testing.assert_allclose(u[name], -0.1 * 1e-3 * sign, rtol=1e-6)
    stepped = gf.apply_updates(params, u)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), gf.eval_params(state, stepped), stepped
    )
    wide = gf.scale_by_splus()
    u, _ = wide.update(grads["w"], wide.init(params["w"]))
    np.testing.assert_allclose(u, 2 / 10, rtol=1e-6)


def test_splus_keeps_its_conditional_in_a_sweep() -> None:
    tx, g = gf.scale_by_splus(), jnp.ones((3, 4, 6))
    state = jax.vmap(tx.init)(g)
    assert jax.jit(jax.vmap(tx.update)).lower(g, state).as_text().count("stablehlo.case") >= 1


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
@pytest.mark.parametrize("signed", [True, False])
def test_adamuon(shape: tuple[int, int], signed: bool) -> None:
    p, grads = RNG.normal(size=shape), [RNG.normal(size=shape) for _ in range(5)]
    tx = gf.adamuon(0.1, 0.8, 0.7, 1e-3, 0.02, signed=signed)
    expected = rules.adamuon(p, grads, 0.1, 0.8, 0.7, 1e-3, 0.02, signed)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12)


@pytest.mark.parametrize(("shape", "rows"), [((5, 8), True), ((8, 5), False), ((5, 5), True)])
def test_dion2(shape: tuple[int, int], rows: bool) -> None:
    p, grads = RNG.normal(size=shape), [RNG.normal(size=shape) for _ in range(6)]
    tx = gf.dion2(0.1, 0.3, 0.9, 0.02)
    expected = rules.dion2(p, grads, 0.1, 0.3, 0.9, 0.02, rows)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12)


def test_dion2_of_all_rows_is_muon_of_a_sum_that_decays_later() -> None:
    grads = [RNG.normal(size=(4, 4)) for _ in range(5)]
    dion2 = trajectory(gf.chain(gf.scale_by_dion2(1.0, 0.9, "keller"), gf.scale(-1.0)), grads[0], grads)
    muon = gf.scale_by_muon(beta=0.9, nesterov=False, bias_correction=False, eps=1e-8)
    plain = trajectory(gf.chain(muon, gf.scale(-1.0)), grads[0], grads)
    np.testing.assert_allclose(dion2, plain, atol=1e-5)  # for eps is added to another norm


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
@pytest.mark.parametrize(("rms", "nesterov"), [(None, True), (0.2, False)])
def test_muown(shape: tuple[int, int], rms: float | None, nesterov: bool) -> None:
    p, grads = RNG.normal(size=shape), [RNG.normal(size=shape) for _ in range(6)]
    numbers = (0.1, 0.8, 0.7, 0.9, 1e-3, 0.05, rms)
    found = trajectory(gf.step_by_muown(*numbers, nesterov=nesterov), p, grads)
    expected = rules.muown(p, grads, *numbers, nesterov)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), "outputs"), ((6, 4), "longer")])
def test_normuon(shape: tuple[int, int], axis: str) -> None:
    p, grads = RNG.normal(size=shape), [RNG.normal(size=shape) for _ in range(6)]
    tx = gf.normuon(0.1, beta=0.8, b2=0.7, weight_decay=0.05, axis=axis)
    expected = rules.normuon(p, grads, 0.1, 0.8, 0.7, 0.05, axis)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12, atol=1e-13)


def test_soap_muon() -> None:
    """SOAP refreshed every step, the orthogonal factor of its direction, decay."""
    p, grads = RNG.normal(size=(5, 5)), [RNG.normal(size=(5, 5)) for _ in range(6)]
    tx = gf.soap_muon(0.1, 0.8, 0.7, 0.6, 0.05)
    expected = rules.soap(p, grads, 0.1, 0.8, 0.7, 0.6, 1e-8, 1, 0.05, "quintic")
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "constrained"),
    [("spectral", False), ("sign", True), ("inputs", False), ("outputs", True), ("rms", False)],
)
def test_scion_in_the_norm_of_each_role(norm: str, constrained: bool) -> None:
    p, grads = RNG.normal(size=(4, 6)), [RNG.normal(size=(4, 6)) for _ in range(5)]
    tx = gf.scion(0.1, 0.2, 3.0, constrained, {"**": norm})
    expected = rules.scion(p, grads, 0.1, 0.2, 3.0, norm, constrained)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12, atol=1e-13)


def test_every_method_of_the_race_has_a_reference() -> None:
    assert list(CASES) == [*race.BASES, *race.METHODS]
    assert oracle_error("muon on the hyperball") < 1e-13  # the others have tests of their own


def test_kron_with_frozen_factors_is_a_clipped_average() -> None:
    p, grads = RNG.normal(size=(4, 6)), [scale * RNG.normal(size=(4, 6)) for scale in (0.5, 3.0, 1.0, 0.2)]
    mu, x, expected = np.zeros((4, 6)), p, []
    for t, g in enumerate(grads, 1):
        mu = 0.9 * mu + 0.1 * g
        m = mu / (1 - 0.9**t)
        size = np.sqrt((m**2).mean())
        x = x - 0.01 * (m * min(1, 1.1 / (size + 1e-6)) + 0.02 * x)
        expected.append(x)
    tx = gf.kron(0.01, 0.9, 0.02, preconditioner_update_probability=0.0)
    np.testing.assert_allclose(trajectory(tx, p, grads), expected, rtol=1e-12)


def test_muown_begins_where_the_weights_are_zero() -> None:
    p = jnp.asarray([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    tx = gf.muown(0.1)
    state = tx.init(p)
    for _ in range(3):
        u, state = tx.update(jnp.ones((3, 2)), state, p)
        p = gf.apply_updates(p, u)
    assert np.isfinite(p).all()
    assert np.abs(p[:, 1]).min() > 0.01


def test_muown_of_stacks_and_blocks_is_muown_of_each() -> None:
    p, grads = RNG.normal(size=(2, 4, 8)), [RNG.normal(size=(2, 4, 8)) for _ in range(3)]
    together = trajectory(gf.step_by_muown(0.1, matrices=gf.Matrix(1, 2, {2: (5, 3)})), p, grads)
    for i in range(2):
        for part in (slice(0, 5), slice(5, 8)):
            own = trajectory(gf.step_by_muown(0.1), p[i, :, part], [g[i, :, part] for g in grads])
            np.testing.assert_allclose([x[i, :, part] for x in together], own, rtol=1e-12)


@pytest.mark.parametrize("name", ["scale_by_splus", "scale_by_adamuon", "scale_by_dion2", "step_by_muown"])
def test_hard_gradients_leave_finite_states(name: str) -> None:
    """Zero, of rank one and huge, at the first step and later; with a side of one."""
    tx = getattr(gf, name)(*[0.1] * (name == "step_by_muown"))
    p = {n: jnp.asarray(RNG.normal(size=(n, 4)), jnp.float32) for n in (1, 3)}
    step = jax.jit(tx.update)
    for bad in (0.0, 1.0, 1e30):
        state = tx.init(p)
        hard = jax.tree.map(lambda x, bad=bad: jnp.full_like(x, bad), p)
        for g in (hard, p, hard, p):
            u, state = step(g, state, p)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves((u, state)))


def test_matrices_are_required() -> None:
    params = {"b": jnp.ones((3,))}
    for name in ("scale_by_splus", "scale_by_adamuon", "scale_by_dion2", "step_by_muown"):
        with pytest.raises(ValueError, match=r"every parameter must be a matrix; got shape \(3,\) at 'b'"):
            getattr(gf, name)(*[0.1] * (name == "step_by_muown")).init(params)


@pytest.mark.parametrize("name", ["soap_muon", "kron", "dion2", "muown"])
def test_containers_change_nothing(name: str) -> None:
    """Packed trees, the mean of two gradients, and a part of a tree are what the optimizer itself makes."""
    tx = getattr(gf, name)(0.1)
    params = {"w": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32), "b": jnp.ones((4,))}
    grads = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), params) for _ in range(4)]
    means = [gf.tree.scale(0.5, gf.tree.add(a, b)) for a, b in zip(grads[::2], grads[1::2], strict=True)]

    def last(tx: Any, params: Any, grads: list[Any]) -> Any:
        state, step = tx.init(params), jax.jit(tx.update)
        for g in grads:
            u, state = step(g, state, params)
        return u

    expected = last(tx, params, means)
    packed = last(tx, gf.packed.pack(params), [gf.packed.pack(g) for g in means])
    many = last(gf.MultiSteps(tx, 2), params, grads)
    part = gf.partition({"a": tx, "z": gf.set_to_zero()}, lambda p: {"net": "a", "rest": "z"})
    inside = last(
        part, {"net": params, "rest": jnp.ones(3)}, [{"net": g, "rest": jnp.ones(3)} for g in means]
    )
    for found in (gf.packed.unpack(packed), many, inside["net"]):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), found, expected)
    np.testing.assert_array_equal(inside["rest"], 0)


def test_the_halves_of_soap_muon_and_kron() -> None:
    """The assemblies are the stages that they are documented to be, one after the other."""
    g = [jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32) for _ in range(3)]
    soap, whole = gf.scale_by_soap(0.95, 0.9, 0.9, precondition_frequency=1), gf.soap_muon(0.1)
    kron, kron_whole = gf.scale_by_kron(key=3), gf.kron(0.1, key=3, weight_decay=0.0)
    states = [tx.init(g[0]) for tx in (soap, whole, kron, kron_whole)]
    for x in g:
        direction, states[0] = soap.update(x, states[0], x)
        u, states[1] = whole.update(x, states[1], x)
        step, states[2] = kron.update(x, states[2], x)
        v, states[3] = kron_whole.update(x, states[3], x)
    shaped = -0.1 * math.sqrt(6 / 4) * gf.linalg.newton_schulz(direction, "quintic")
    np.testing.assert_allclose(u, shaped, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(v, -0.1 * step, rtol=1e-5)
