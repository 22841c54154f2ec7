"""The matrix room: axes, blocks, choices by path, and one rule over all matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.matrices import WHOLE, Matrix, init_per_matrix, per_matrix, resolve_matrices

X = np.random.default_rng(0).normal(size=(4, 6, 8))


def _gram(g: Any, grams: Any, count: Any, s: Any) -> Any:
    """The rows' Gram matrix, added up, beside a count that stays an integer."""
    return s.factor * g, (grams[0] + g @ g.T, grams[1]), count + 1


def _run(spec: Any, leaf: Any) -> Any:
    g = {"w": jnp.asarray(leaf, jnp.float32), "none": None}
    axes = resolve_matrices(spec, g)
    grams = init_per_matrix(lambda shape, p: (jnp.zeros((shape[0],) * 2), None), axes, g)
    counts = init_per_matrix(lambda shape, p: jnp.zeros((), jnp.int32), axes, g)
    return per_matrix(_gram, axes, (g, grams, counts), factor=2.0)


@pytest.mark.parametrize(
    ("spec", "matrices"),
    [
        (Matrix(1, 2), [X[i] for i in range(4)]),
        (Matrix(0, -1), [X[:, i] for i in range(6)]),
        (Matrix((0, 1), 2), [X.reshape(24, 8)]),
        (Matrix(2, (1, 0)), [X.transpose(2, 1, 0).reshape(8, 24)]),
        (Matrix(1, 2, {2: 4}), [X[i][:, j : j + 2] for i in range(4) for j in (0, 2, 4, 6)]),
        (Matrix((0, 1), 2, {1: 2}), [X[:, j : j + 3].reshape(12, 8) for j in (0, 3)]),
    ],
)
def test_each_matrix_is_seen_by_itself(spec: Any, matrices: list[Any]) -> None:
    u, grams, counts = _run(spec, X)
    np.testing.assert_allclose(u["w"], 2 * X, rtol=1e-6)
    assert u["none"] is None
    expected = np.stack([m @ m.T for m in matrices])
    np.testing.assert_allclose(
        grams["w"][0], expected if len(matrices) > 1 else expected[0], rtol=1e-4, atol=1e-6
    )
    assert grams["w"][1] is None
    assert counts["w"].dtype == jnp.int32
    np.testing.assert_array_equal(counts["w"], 1)


def test_unequal_blocks_have_a_state_each() -> None:
    x = X[0]
    u, grams, _ = _run(Matrix(split={1: (4, 2, 2)}), x)
    np.testing.assert_allclose(u["w"], 2 * x, rtol=1e-6)
    assert len(grams["w"]) == 3
    for (gram, _), part in zip(grams["w"], (x[:, :4], x[:, 4:6], x[:, 6:]), strict=True):
        np.testing.assert_allclose(gram, part @ part.T, rtol=1e-4, atol=1e-6)


def test_muon_of_blocks_is_muon_of_each() -> None:
    x = jnp.asarray(X[0], jnp.float32)
    parts = {"q": x[:, :4], "k": x[:, 4:6], "v": x[:, 6:]}
    cut = gf.muon(1.0, muon_weight_dimension_numbers=Matrix(split={1: (4, 2, 2)}))
    whole = gf.muon(1.0)
    together, _ = cut.update(x, cut.init(x), x)
    apart, _ = whole.update(parts, whole.init(parts), parts)
    np.testing.assert_allclose(together, jnp.concatenate([apart[k] for k in "qkv"], 1), rtol=1e-4, atol=1e-5)
    heads = gf.muon(1.0, muon_weight_dimension_numbers=Matrix(split={1: 2}))
    halves, _ = heads.update(x, heads.init(x), x)
    one, _ = whole.update(x[:, :4], whole.init(x[:, :4]), x[:, :4])
    np.testing.assert_allclose(halves[:, :4], one, rtol=1e-4, atol=1e-5)


def _twice(g: Any, s: Any) -> Any:
    return 2.0 * g


def test_a_whole_leaf_goes_to_the_rule_as_it_is() -> None:
    (u,) = per_matrix(_twice, {"w": WHOLE, "n": None}, ({"w": jnp.ones((2, 3, 4)), "n": None},))
    np.testing.assert_array_equal(u["w"], 2)


def test_a_random_key_is_a_state() -> None:
    keys = {"w": jax.random.split(jax.random.key(0), 4)}
    g = {"w": jnp.asarray(X, jnp.float32)}
    u, new = per_matrix(_noise, resolve_matrices(Matrix(1, 2), g), (g, keys))
    expected = [jax.random.normal(jax.random.split(key)[0], (6, 8)) for key in keys["w"]]
    np.testing.assert_allclose(u["w"], expected, rtol=1e-6)
    assert new["w"].shape == (4,)


def _noise(g: Any, key: Any, s: Any) -> Any:
    now, later = jax.random.split(key)
    return jax.random.normal(now, g.shape, g.dtype), later


PARAMS = {
    "embedding": jnp.ones((9, 4)),
    "pos_embed": {"table": jnp.ones((5, 4))},
    "block": {
        "qkv": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones((8,))},
        "conv": {"kernel": jnp.ones((3, 3, 4, 8))},
        "scanned": jnp.ones((2, 4, 4)),
        "heads_mixer": jnp.ones((4, 4)),
    },
    "lm_head": {"kernel": jnp.ones((4, 9))},
}


def test_hidden_matrices_leave_embeddings_positions_and_heads_out() -> None:
    chosen = gf.hidden_matrices()(PARAMS)
    assert chosen["block"] == {
        "qkv": {"kernel": Matrix(), "bias": None},
        "conv": {"kernel": Matrix((0, 1, 2), 3)},
        "scanned": None,
        "heads_mixer": Matrix(),
    }
    assert chosen["embedding"] is None
    assert chosen["pos_embed"]["table"] is None
    assert chosen["lm_head"]["kernel"] is None


def test_the_first_rule_that_matches_wins_and_the_rest_is_as_usual() -> None:
    choice = gf.choose_matrices(
        {
            "**/scanned": Matrix(1, 2),
            gf.ndim(3): None,
            "block/qkv/*": Matrix(split={1: 2}),
            "**/conv/**": None,
        }
    )
    chosen = choice({**PARAMS, "block": {**PARAMS["block"]}})
    assert chosen["block"]["scanned"] == Matrix(1, 2)
    assert chosen["block"]["qkv"]["kernel"] == Matrix(split={1: 2})
    assert chosen["block"]["conv"]["kernel"] is None
    assert chosen["block"]["heads_mixer"] == Matrix()
    assert choice == gf.choose_matrices(choice.expression.arguments["rules"])
    assert gf.from_config(gf.to_config(choice)) == choice


def test_summary_shows_the_matrices_and_check_finds_the_embedding() -> None:
    params = {"embedding": jnp.ones((9, 4)), "w": jnp.ones((4, 8)), "b": jnp.ones((8,))}
    tx = gf.muon(0.1)
    summary = gf.summary(tx, params)
    assert summary.matrices == {"muon.chain.scale_by_muon": {(9, 4): 1, (4, 8): 1}}
    assert "matrices of muon.chain.scale_by_muon: 1 of 9 x 4, 1 of 4 x 8" in str(summary)
    (finding,) = (f for f in gf.check(tx, params).findings if "embedding" in f.problem)
    assert finding.stage == "muon.chain.scale_by_muon"
    mended = gf.muon(0.1, muon_weight_dimension_numbers=gf.hidden_matrices())
    assert not any("embedding" in f.problem for f in gf.check(mended, params).findings)
    # A stage without a state takes them at init, too.
    alone = gf.chain(gf.masked(gf.orthogonalize(), gf.ndim(2)), gf.scale(-0.1))
    assert "takes 'embedding' as a hidden matrix" in str(gf.check(alone, params))


def test_for_matrices_hands_its_matrices_to_the_stages_within() -> None:
    params = {"stack": jnp.asarray(X, jnp.float32), "b": jnp.ones((8,)), "w": jnp.ones((4, 8))}
    choice = gf.choose_matrices({"stack": Matrix(1, 2)})
    inner = gf.chain(gf.scale_by_muon(), gf.scale_by_learning_rate(0.1))
    tx = gf.for_matrices(inner, matrices=choice, others_rate=0.5)
    u, _ = tx.update(params, tx.init(params), params)
    alone = gf.chain(gf.scale_by_muon(weight_dimension_numbers=Matrix(1, 2)), gf.scale(-0.1))
    expected, _ = alone.update(params["stack"], alone.init(params["stack"]))
    np.testing.assert_allclose(u["stack"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(u["b"], 0.5 * -0.1 * (1 + 1e-4), rtol=1e-5)
    with pytest.raises(ValueError, match="one learning rate"):
        gf.for_matrices(gf.scale_by_muon())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Matrix(0, 0), "different axes"),
        (Matrix(0, 3), "different axes"),
        (Matrix((), 1), "different axes"),
        (Matrix(0, 1, {1: 3}), "3 does not divide"),
        (Matrix(0, 1, {1: (4, 5)}), "have 9"),
        (Matrix(0, 1, {2: 2}), "matrix's own"),
        (Matrix(0, 1, {1: 0}), "0 does not divide"),
        (Matrix(0, 1, {1: (-1, 9)}), "at least one element; got"),
    ],
)
def test_wrong_axes_are_named_with_the_leaf(spec: Any, text: str) -> None:
    params = {"layer": {"w": jnp.ones((4, 8))}}
    with pytest.raises(ValueError, match=rf"(?s)layer/w.*{text}|{text}.*layer/w"):
        gf.scale_by_muon(weight_dimension_numbers=spec).init(params)


def test_a_vector_is_refused_by_its_path() -> None:
    with pytest.raises(ValueError, match=r"must be a matrix.*\(3,\).*'b'"):
        gf.scale_by_muon().init({"b": jnp.ones((3,))})


@pytest.mark.parametrize("rules", [{}, None, {"**": 3}])
def test_wrong_rules_are_refused(rules: Any) -> None:
    with pytest.raises(TypeError, match="choose_matrices"):
        gf.choose_matrices(rules)
