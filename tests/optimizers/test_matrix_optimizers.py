"""SOAP, NorMuon and kin against their equations in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from benchmarks.matrix_rules import grafted_shampoo, inverse_root, kron, neuron_norm
from benchmarks.oracle_errors import kron_draws
from gradflow.matrices import Matrix

RNG = np.random.default_rng(0)


def trajectory(tx: Any, p: Any, grads: list[Any]) -> list[Any]:
    """The updates of some steps in float64."""
    with jax.enable_x64(True):
        state, step, found = tx.init(jnp.asarray(p)), jax.jit(tx.update), []
        for g in grads:
            u, state = step(jnp.asarray(g), state, jnp.asarray(p))
            found.append(np.asarray(u))
    return found


def soap_refreshed_first(
    grads: list[Any], b1: float, b2: float, beta: float, eps: float, k: int, whitened: bool = False
) -> list[Any]:
    """SOAP that refreshes its basis before the step, on one matrix; KL-SOAP if it is whitened."""
    m, n = grads[0].shape
    left, right = np.zeros((m, m)), np.zeros((n, n))
    ql, qr, mu, nu, found = np.eye(m), np.eye(n), np.zeros((m, n)), np.zeros((m, n)), []
    for t, g in enumerate(grads):
        of_left, of_right = np.eye(m), np.eye(n)
        if whitened:
            sides = [(ql, left, m), (qr, right, n)]
            of_left, of_right = (
                q @ np.diag(1 / (np.maximum(np.diag(q.T @ s @ q), eps) if t else 1 + 0 * q[0])) @ q.T / size
                for q, s, size in sides
            )
        left, right = (
            beta * left + (1 - beta) * g @ of_right @ g.T,
            beta * right + (1 - beta) * g.T @ of_left @ g,
        )
        if t == 0:
            ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        elif t % k == 0:
            i = np.argsort(-np.diag(ql.T @ left @ ql))
            j = np.argsort(-np.diag(qr.T @ right @ qr))
            nu = nu[i][:, j]
            ql, qr = np.linalg.qr((left @ ql)[:, i])[0], np.linalg.qr((right @ qr)[:, j])[0]
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * (ql.T @ g @ qr) ** 2
        a = (ql.T @ mu @ qr / (1 - b1 ** (t + 1))) / (np.sqrt(nu / (1 - b2 ** (t + 1))) + eps)
        found.append(ql @ a @ qr.T)
    return found


def test_soap_that_refreshes_first() -> None:
    grads = [RNG.normal(size=(5, 5)) for _ in range(8)]
    tx = gf.scale_by_soap(0.9, 0.97, 0.8, 1e-2, 3, refresh_first=True)
    expected = soap_refreshed_first(grads, 0.9, 0.97, 0.8, 1e-2, 3)
    np.testing.assert_allclose(trajectory(tx, grads[0], grads), expected, rtol=1e-12, atol=1e-12)


def test_soap_with_whitened_statistics() -> None:
    grads = [RNG.normal(size=(5, 5)) for _ in range(6)]
    tx = gf.scale_by_soap(0.9, 0.97, 0.8, 1e-2, 2, refresh_first=True, whitened=True)
    found = trajectory(tx, grads[0], grads)
    np.testing.assert_allclose(
        found, soap_refreshed_first(grads, 0.9, 0.97, 0.8, 1e-2, 2, True), rtol=1e-12, atol=1e-12
    )


def test_soap_of_stacks_and_blocks_is_soap_of_each() -> None:
    grads = [RNG.normal(size=(2, 4, 8)) for _ in range(4)]
    arguments: Any = {"eps": 1e-2, "precondition_frequency": 2}
    together = trajectory(gf.scale_by_soap(**arguments, matrices=Matrix(1, 2, {2: (5, 3)})), grads[0], grads)
    for i in range(2):
        for part in (slice(0, 5), slice(5, 8)):
            own = [g[i, :, part] for g in grads]
            alone = trajectory(gf.scale_by_soap(**arguments), own[0], own)
            np.testing.assert_allclose([u[i, :, part] for u in together], alone, rtol=1e-12, atol=1e-12)


def test_soap_without_bases_is_adam_from_the_second_call_on() -> None:
    grads = [RNG.normal(size=(3, 4)) for _ in range(4)]
    soap = trajectory(gf.scale_by_soap(0.9, 0.99, eps=1e-30, max_dim=0), grads[0], grads)
    adam = trajectory(gf.scale_by_adam(0.9, 0.99, 1e-30), grads[0], grads[1:])
    np.testing.assert_array_equal(soap[0], 0)
    np.testing.assert_allclose(soap[1:], adam, rtol=1e-12)
    state = gf.scale_by_soap(max_dim=3).init(jnp.ones((3, 4)))
    assert state.factors[0].shape == (3, 3)
    assert state.factors[1] is None


@pytest.mark.parametrize(
    "bad", [jnp.zeros((4, 4)), jnp.ones((4, 4)), jnp.full((4, 4), 1e30), jnp.full((4, 4), jnp.nan)]
)
@pytest.mark.parametrize("at", [0, 2, 3])
def test_soap_keeps_its_basis_orthogonal_after_a_bad_gradient(bad: Any, at: int) -> None:
    tx = gf.scale_by_soap(precondition_frequency=2)
    grads = [jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32) for _ in range(6)]
    grads[at] = bad
    state, step = tx.init(grads[0]), jax.jit(tx.update)
    for g in grads:
        _, state = step(g, state)
    for factor, basis in zip(state.factors, state.bases, strict=True):
        assert np.isfinite(factor).all()
        np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)


def test_soap_keeps_its_conditional_in_a_sweep() -> None:
    tx = gf.scale_by_soap()
    g = jnp.ones((3, 4, 6))
    state = jax.vmap(tx.init)(g)
    assert jax.jit(jax.vmap(tx.update)).lower(g, state).as_text().count("stablehlo.case") >= 2


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("longer", [False, True])
def test_neuron_norms(shape: tuple[int, int], longer: bool) -> None:
    xs = [RNG.normal(size=shape) for _ in range(4)]
    tx = gf.scale_by_neuron_norm(0.9, axis="longer" if longer else "outputs")
    expected = neuron_norm(xs, 0.9, "longer" if longer else "outputs")
    np.testing.assert_allclose(trajectory(tx, xs[0], xs), expected, rtol=1e-12)


def test_normuon_is_its_parts_and_keeps_muon_s_norm() -> None:
    params = {"w": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32), "embedding": jnp.ones((9, 6))}
    tx, muon = gf.normuon(0.1), gf.muon(0.1, muon_weight_dimension_numbers=gf.hidden_matrices())
    (u, _), (expected, _) = (t.update(params, t.init(params), params) for t in (tx, muon))
    np.testing.assert_allclose(u["embedding"], -0.1 * (1 + 1e-4), rtol=1e-5)
    np.testing.assert_allclose(gf.tree.norm(u["w"]), gf.tree.norm(expected["w"]), rtol=1e-4)
    rows = np.linalg.norm(u["w"], axis=0)
    assert rows.std() < 1e-4 * rows.mean(), "the first step gives each output as much as another"


def test_soap_muon_is_orthogonal() -> None:
    rng = np.random.default_rng(3)  # an early step of SOAP is nearly a matrix of signs: here one of full rank
    params = {"w": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), "b": jnp.ones((4,))}
    tx = gf.soap_muon(1.0)
    state = tx.init(params)
    first, state = tx.update(params, state, params)
    np.testing.assert_array_equal(first["w"], 0)
    grads = {"w": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), "b": jnp.ones((4,))}
    second, _ = tx.update(grads, state, params)
    expected = np.sqrt(6 / 4)
    np.testing.assert_allclose(np.linalg.svd(second["w"], compute_uv=False), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "diagonal", "memory"),
    [
        ((4, 5), (False, False), None),
        ((4, 5), (False, True), "one_diag"),
        ((3, 2, 4), (False, False, False), None),
        ((5,), (True,), None),
        ((4, 1), (False, True), None),
    ],
)
def test_kron_follows_its_probes(shape: Any, diagonal: Any, memory: Any) -> None:
    grads = [0.3 * RNG.normal(size=shape) for _ in range(40)]
    tx = gf.scale_by_kron(0.8, 1.0, 0.2, memory_save_mode=memory, key=7)
    probes, balances = kron_draws(7, shape, len(grads))
    expected = -np.diff(
        kron(np.zeros(shape), grads, probes, balances, 1.0, 0.8, 0.2, diagonal), axis=0, prepend=0
    )
    np.testing.assert_allclose(trajectory(tx, grads[0], grads), expected, rtol=1e-12, atol=1e-12)


def test_kron_moves_its_factors_as_often_as_it_is_told() -> None:
    g = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    for probability, expected in ((0.5, [False, True] * 2), (0.0, [False] * 4), (None, [True] * 4)):
        tx = gf.scale_by_kron(preconditioner_update_probability=probability)
        state, moved = tx.init(g), []
        for _ in range(4):
            before = state.factors[0]
            _, state = tx.update(g, state)
            moved.append(bool(np.any(before != state.factors[0])))
        assert moved == expected


def test_kron_of_stacks_has_a_probe_for_each_matrix() -> None:
    g = jnp.broadcast_to(jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32), (2, 3, 4))
    tx = gf.scale_by_kron(matrices=Matrix(1, 2))
    state = tx.init(g)
    assert [q.shape for q in state.factors] == [(2, 3, 3), (2, 4, 4)]
    u, state = tx.update(g, state)
    assert np.any(u[0] != u[1])
    assert jax.jit(tx.update).lower(g, state).as_text().count("stablehlo.case") >= 1


@pytest.mark.parametrize("bad", [0.0, 1.0, 1e30, np.nan])
def test_kron_keeps_finite_factors(bad: float) -> None:
    tx = gf.scale_by_kron()
    g = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    state = tx.init(g)
    for grads in (jnp.full((3, 4), bad), g, jnp.full((3, 4), bad), g):
        _, state = tx.update(grads, state)
    for q in state.factors:
        assert np.isfinite(q).all()
        np.testing.assert_array_equal(q, jnp.triu(q))


def test_wrong_arguments_are_named() -> None:
    for call, text in (
        (lambda: gf.scale_by_kron(memory_save_mode="some"), "one_diag"),
        (lambda: gf.scale_by_neuron_norm(axis="rows"), "longer"),
        (lambda: gf.orthogonalize("kelvin"), "quintic"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def shampoo_directions(grads: list[Any]) -> Any:
    steps = grafted_shampoo(np.zeros_like(grads[0]), grads, -1.0, 0.9, 0.8, 0.1, 2, 0.97)
    return np.diff(steps, axis=0, prepend=0)


def test_shampoo_with_grafting_and_blocks() -> None:
    """Where `g.T @ g` has rank 4 of 7, roundings of its eigenvalues, 1e-14, count as parts of `eps`."""
    grads = [RNG.normal(size=(4, 7)) for _ in range(6)]
    arguments: Any = {"grafting": "adam", "b2": 0.97, "start_step": 1}
    tx = gf.scale_by_shampoo(0.9, 0.8, 0.1, 2, **arguments)
    expected = shampoo_directions(grads)
    np.testing.assert_allclose(trajectory(tx, grads[0], grads), expected, rtol=1e-12, atol=1e-12)
    blocks = trajectory(gf.scale_by_shampoo(0.9, 0.8, 0.1, 2, **arguments, block_size=4), grads[0], grads)
    for part in (slice(0, 4), slice(4, 7)):
        own = shampoo_directions([g[:, part] for g in grads])
        np.testing.assert_allclose([u[:, part] for u in blocks], own, rtol=1e-12, atol=1e-12)


def test_shampoo_of_blocks_needs_no_moments() -> None:
    g = RNG.normal(size=(4, 7))
    (blocks,) = trajectory(gf.scale_by_shampoo(eps=0.1, block_size=4), g, [g])
    for part in (slice(0, 4), slice(4, 7)):
        own = g[:, part]
        left, right = (inverse_root(a, 4, 0.1) for a in (own @ own.T, own.T @ own))
        np.testing.assert_allclose(blocks[:, part], left @ own @ right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 6), (6, 3)])
def test_one_sided_shampoo_takes_the_root_of_the_shorter_side(shape: tuple[int, int]) -> None:
    grads, tall = [RNG.normal(size=shape) for _ in range(6)], shape[0] > shape[1]
    side, root, expected = np.zeros((3, 3)), np.eye(3), []
    for t, g in enumerate(grads, 1):
        side = 0.8 * side + 0.2 * (g.T @ g if tall else g @ g.T)
        if (t - 1) % 2 == 0:
            root = inverse_root(side / (1 - 0.8**t), 2, 1e-3)
        expected.append(g @ root if tall else root @ g)
    tx = gf.scale_by_shampoo(beta=0.8, eps=1e-3, precondition_frequency=2, one_sided=True)
    np.testing.assert_allclose(trajectory(tx, grads[0], grads), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 6), (6, 3)])
def test_one_sided_shampoo_orthogonalizes_the_first_gradient(shape: tuple[int, int]) -> None:
    """(G G^T)^(-1/2) G is G's orthogonal factor, of a matrix of lower rank too."""
    g = RNG.normal(size=shape)
    left, _, right = np.linalg.svd(g, full_matrices=False)
    tx = gf.scale_by_shampoo(beta=0.9, eps=1e-14, one_sided=True)
    np.testing.assert_allclose(trajectory(tx, g, [g])[0], left @ right, atol=1e-12)
    low = np.outer(g[:, 0], g[0])
    np.testing.assert_allclose(
        trajectory(tx, low, [low])[0], low / np.linalg.norm(g[:, 0]) / np.linalg.norm(g[0]), atol=1e-6
    )
    factors = tx.init(jnp.ones(shape)).factors
    assert [f is None for f in factors] == [shape[0] > shape[1], shape[0] < shape[1]]


@pytest.mark.parametrize("bad", [0.0, 1.0, 1e30, np.nan])
def test_shampoo_keeps_finite_roots(bad: float) -> None:
    tx = gf.scale_by_shampoo()
    g = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    state = tx.init(g)
    for grads in (jnp.full((3, 4), bad), g, jnp.full((3, 4), bad), g):
        u, state = tx.update(grads, state)
    assert np.isfinite(u).all()
    for x in jax.tree.leaves((state.factors, state.roots)):
        assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("norm", "size"),
    [
        ("sign", lambda u: np.abs(u).max() * u.shape[0]),
        ("inputs", lambda u: np.sqrt((u**2).mean(1)).max()),
        ("outputs", lambda u: np.linalg.norm(u, axis=0).max() * np.sqrt(u.shape[0])),
        ("rms", lambda u: np.sqrt((u**2).mean())),
        ("spectral", lambda u: np.linalg.norm(u, 2) * np.sqrt(u.shape[0] / u.shape[1])),
    ],
)
def test_scion_s_steps_have_norm_one(norm: str, size: Any) -> None:
    g = RNG.normal(size=(4, 6))
    tx = gf.scale_by_scion(0.3, {"**": norm}, ns_coeffs="quintic")
    (u,) = trajectory(tx, g, [g])
    assert size(u) == pytest.approx(1, abs=1e-6)
    assert np.sum(u * g) > 0


def test_scion_tells_roles_by_name_and_takes_others() -> None:
    params = {
        "embedding": jnp.asarray(RNG.normal(size=(9, 4)), jnp.float32),
        "w": jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32),
        "conv": jnp.asarray(RNG.normal(size=(3, 3, 2, 8)), jnp.float32),
        "b": jnp.ones((4,)),
        "lm_head": jnp.ones((4, 9)),
    }
    tx = gf.scale_by_scion(1.0, ns_coeffs="quintic")
    u, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(u["embedding"]), 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(u["lm_head"], 1 / 4, rtol=1e-5)
    np.testing.assert_allclose(u["b"], 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(u["w"], compute_uv=False), 1, rtol=1e-3)
    conv = np.linalg.svd(np.reshape(u["conv"], (18, 8)), compute_uv=False)
    np.testing.assert_allclose(conv, np.sqrt(8 / 2) / 9, rtol=1e-3)
    other = gf.scale_by_scion(1.0, {"embedding": "sign"})
    v, _ = other.update(params, other.init(params), params)
    np.testing.assert_allclose(v["embedding"], jnp.sign(params["embedding"]) / 9, rtol=1e-5)
    with pytest.raises(ValueError, match="'b' of shape"):
        gf.scale_by_scion(norms={"b": "spectral"}).init(params)
    with pytest.raises(ValueError, match="sign"):
        gf.scale_by_scion(norms={"b": "spektral"})
