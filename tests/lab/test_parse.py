"""Expressions from text: what is read, what is refused, and that nothing is run."""

import pytest

import gradflow as gf
from gradflow._expressions._printing import show
from gradflow.lab import parse
from gradflow.lab._cli._catalogue import catalogue, description, listing

VALUES = [
    gf.adamw(1e-3),
    gf.sgd(0.1, momentum=0.9, nesterov=True),
    gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(gf.cosine_decay_schedule(1e-3, 100), mask=gf.ndim(2))),
    gf.adam(1e-3, mu_dtype="bfloat16"),
    gf.scale(-0.5),
    gf.named_chain(("clip", gf.clip(0.5)), ("adam", gf.adam(0.01))),
    gf.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.1}),
    gf.chain(),
    gf.clip_by_global_norm(float("inf")),
    gf.box_constraint(float("-inf"), float("inf")),
]


@pytest.mark.parametrize("value", VALUES, ids=show)
def test_what_prints_is_read_back(value):
    assert parse(repr(value)) == value
    assert parse(show(value)) == value


def test_brief_leaves_defaults_out():
    assert show(gf.adamw(1e-3, b1=0.8)) == "adamw(0.001, b1=0.8)"
    assert show(VALUES[2]) == (
        "chain(clip_by_global_norm(1.0), adamw(cosine_decay_schedule(0.001, 100), mask=ndim(2)))"
    )


def test_the_modules_name_may_stand_before():
    assert parse("gf.chain(gradflow.clip(1.0), adam(1e-3))") == gf.chain(gf.clip(1.0), gf.adam(1e-3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('touch /tmp/x')", "must call factories by name; got"),
        ("eval('1')", "no factory is called 'eval'"),
        ("adamw.__init__(1e-3)", "must call factories by name; got"),
        ("adamw(1e-3).init", "must call factories by name; got"),
        ("os.adamw(1e-3)", "must call factories by name; got"),
        ("adamw(1e-3 if True else 1)", "must consist of literals and calls"),
        ("adamw(10**9)", "must consist of literals and calls"),
        ("adamw((lambda: 1)())", "must call factories by name; got"),
        ("adamw(f'{1}')", "must consist of literals and calls"),
        ("adamw([x for x in (1,)])", "must consist of literals and calls"),
        ("adamw(x := 1)", "must consist of literals and calls"),
        ("adamw(*(1,))", r"without '\*'"),
        ("adamw(**{'b1': 1})", r"without '\*\*'"),
        ("adamw({**{}})", "must consist of literals and calls"),
        ("(y for y in (1,))", "must consist of literals and calls"),
        ("admw(1e-3)", "Did you mean 'adamw"),
        ("adamw(1e-3", "never closed"),
        ("adamw", "write a call"),
        ("1e-3", "must be an expression; got"),
        ("", "must be an expression; got"),
        ("adamw(1e-3); adam(1)", "must be an expression; got"),
        ("import os", "must be an expression; got"),
        ("adam(" * 60 + ")" * 60, "must nest at most 50 calls"),
        ("(" * 5000 + ")" * 5000, "must nest at most 50 calls|must be an expression"),
        ("adam(" + "1" * 30000 + ")", "must have at most 20000 characters; got"),
        ("adamw(1e-3, b1=-1.0)", r"b1.*\[0, 1\)"),
        ("adamw(1e-3, beta=1)", "unexpected keyword argument 'beta'"),
        ("adamw(1e-3\0)", "must be an expression|null"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        parse(text)


def test_the_catalogue_has_every_optimizer_and_its_bytes():
    found = {entry.name: entry for entry in catalogue()}
    assert {"adam", "adamw", "lbfgs", "lion", "muon", "sgd", "prodigy"} <= set(found)
    assert not any(name.startswith("scale_by") for name in found)
    assert found["adam"].state_bytes_per_parameter == pytest.approx(8, abs=0.01)
    assert found["sgd"].state_bytes_per_parameter == pytest.approx(0, abs=0.01)
    assert found["lion"].state_bytes_per_parameter == pytest.approx(4, abs=0.01)
    for entry in found.values():
        assert entry.line, entry.name
        assert "\n" not in entry.line
        assert entry.state_bytes_per_parameter is not None, entry.name
    assert {entry.name for entry in catalogue("lion")} == {"cautious_lion", "lion"}
    assert "no optimizer or wrapper has 'xyzzy'" in listing("xyzzy")


def test_a_description_has_arguments_addresses_and_state():
    shown = description("chain(clip_by_global_norm(1.0), adamw(1e-3))")
    assert "chain.adamw.weight_decay" in shown
    assert "526.3 kB" in shown
    assert "b1=0.9" in description("adamw")
    assert "sgd(learning_rate, momentum=0.9)" in description("momentum")
    assert "decay_steps" in description("cosine_decay_schedule(0.1, 100)")
    with pytest.raises(ValueError, match="Did you mean"):
        description("admw")
