"""How values look in a notebook."""

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones((2, 2)), "<b>": jnp.ones(2)}


def test_an_expression_is_laid_out_without_its_defaults() -> None:
    assert repr(gf.adamw(1e-3)) == "adamw(0.001)"
    tx = gf.chain(
        gf.clip_by_global_norm(1.0),
        gf.partition({"head/**": gf.sgd(0.1, momentum=0.9), gf.ndim(2): gf.muon(0.02), "**": gf.adamw(1e-3)}),
        gf.scale_by_learning_rate(
            gf.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100, end_value=0.125, exponent=0.5)
        ),
    )
    assert (
        repr(tx)
        == """\
chain(
    clip_by_global_norm(1.0),
    partition(
        {'head/**': sgd(0.1, momentum=0.9), ndim(2): muon(0.02), '**': adamw(0.001)},
    ),
    scale_by_learning_rate(
        warmup_cosine_decay_schedule(0.0, 1.0, 10, 100, end_value=0.125, exponent=0.5),
    ),
)"""
    )
    assert eval(repr(tx), vars(gf)) == tx


def test_describe_shows_every_argument() -> None:
    described = gf.describe(gf.sgd(0.1))
    assert repr(described) == str(described)
    assert "\n    momentum=None,\n    nesterov=False,\n" in described
    assert eval(described, vars(gf)) == gf.sgd(0.1)
    with pytest.raises(TypeError, match="describe: the value must be"):
        gf.describe(3)


def test_pages_escape_what_they_show_and_set_no_colour() -> None:
    tx = gf.with_metrics(gf.adamw(1e-3), {"all": "**"})
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    pages = [
        tx._repr_html_(),
        gf.linear_schedule(0.0, 1.0, 3)._repr_html_(),
        gf.GradientTransformation(*gf.sgd(0.1))._repr_html_(),
        gf.summary(tx, PARAMS)._repr_html_(),
        gf.check(gf.chain(gf.adamw(1e-3), gf.clip(1.0)), PARAMS)._repr_html_(),
        gf.check(gf.sgd(0.1), PARAMS)._repr_html_(),
        gf.metrics(state)._repr_html_(),
    ]
    for page in pages:
        assert page.startswith(("<pre", "<div"))
        assert "<b>" not in page
        assert "color" not in page, "so that it is right on light pages and on dark ones"
    assert "&lt;b&gt;" in pages[4]


def test_metrics_are_a_tree_like_a_dict() -> None:
    tx = gf.with_metrics(gf.sgd(0.1))
    state = tx.init(PARAMS)
    found = jax.jit(lambda state: gf.metrics(tx.update(PARAMS, state, PARAMS)[1]))(state)
    assert isinstance(found, dict)
    assert gf.tree.paths(found) == gf.tree.paths(dict(found))
    assert float(found["update_norm"]) > 0
