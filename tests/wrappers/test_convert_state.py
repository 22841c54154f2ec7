"""convert_state between plain and coded states; a state of the other form is refused by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._coding._leaves import is_coded

X = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(20, 6)), jnp.float32), "b": jnp.arange(1.0, 4.0)}
PLAIN = gf.chain(gf.clip(1.0), gf.adamw(0.1))
CODED = gf.chain(gf.clip(1.0), gf.quantize_state(gf.adamw(0.1), block=10, min_size=20))
CAST = gf.cast_state(PLAIN, {"mean": "bfloat16"}, "nearest")

# ruff: noqa: E501  # one line for each wrong call


def after_two_steps(tx: Any) -> Any:
    state = tx.init(X)
    for _ in range(2):
        _, state = tx.update(X, state, X)
    return state


def same(tree: Any, other: Any) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and bool(jnp.all(x == y)), tree, other)
    )


def test_plain_to_coded_and_back() -> None:
    plain = after_two_steps(PLAIN)
    coded = gf.convert_state(PLAIN, CODED, X, plain)
    assert jax.tree.structure(coded) == jax.tree.structure(CODED.init(X))
    adam, first = coded[1].inner_state[0], CODED.init(X)[1].inner_state[0]
    assert is_coded(adam.mu["w"])
    assert adam.nu["w"].seed == first.nu["w"].seed
    largest = np.abs(plain[1][0].mu["w"]).max(0)
    assert np.all(np.abs(adam.mu["w"].decode() - plain[1][0].mu["w"]) <= largest / 127)
    assert same(adam.mu["b"], plain[1][0].mu["b"])
    assert int(adam.count) == 2
    back = gf.convert_state(CODED, PLAIN, X, coded)
    np.testing.assert_array_equal(back[1][0].nu["w"], adam.nu["w"].decode())
    again = gf.convert_state(PLAIN, CODED, jax.eval_shape(lambda: X), back)
    assert same(again, coded), "what was coded once is coded without a change"
    _, moved = CODED.update(X, again, X)
    assert jax.tree.structure(moved) == jax.tree.structure(coded)


def test_between_coded_forms() -> None:
    coded = after_two_steps(CODED)
    cast = gf.convert_state(CODED, CAST, X, coded)
    mu = cast.inner_state[1][0].mu["w"]
    np.testing.assert_array_equal(mu.codes, coded[1].inner_state[0].mu["w"].decode().astype(jnp.bfloat16))
    assert cast.inner_state[1][0].nu["w"].dtype == jnp.float32


ADAM = gf.scale_by_adam()
EIGHT = gf.quantize_state(ADAM, min_size=1)
REFUSED = [
    (ADAM, EIGHT.init(X), "scale_by_adam: argument 'state' must be a ScaleByAdamState"),
    (ADAM, EIGHT.init(X).inner_state, "scale_by_adam: argument 'state' must hold arrays; got coded leaves"),
    (EIGHT, ADAM.init(X), "quantize_state: argument 'state' must be a CodedState"),
    (CODED, PLAIN.init(X), "quantize_state: argument 'state' must be a CodedState"),
    (PLAIN, CODED.init(X), "adamw: argument 'state' must be a tuple of 3 states"),
    (gf.muon(0.1), gf.quantize_state(gf.muon(0.1), min_size=1).init(X).inner_state,
     "muon.chain.scale_by_muon: argument 'state' must hold arrays; got coded leaves"),
]  # fmt: skip


@pytest.mark.parametrize(("tx", "state", "words"), REFUSED)
def test_the_other_form_is_refused(tx: Any, state: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        jax.eval_shape(tx.update, X, state, X)
    assert words in str(caught.value)
    assert "gradflow.convert_state(old_tx, new_tx, params, state)" in str(caught.value)


WRONG = [
    ((CODED, PLAIN, X, PLAIN.init(X)), "'state' must be a state of 'old_tx' for these parameters; at '1' state has"),
    ((PLAIN, CODED, {"w": X["w"].T, "b": X["b"]}, PLAIN.init(X)), "must be a state of 'old_tx' for these parameters"),
    ((PLAIN, gf.quantize_state(gf.lion(0.1)), X, PLAIN.init(X)), "must differ in quantize_state and cast_state alone"),
    ((ADAM, gf.quantize_state(gf.scale_by_lion()), X, ADAM.init(X)), "state of old_tx has a ScaleByAdamState"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_arguments(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^convert_state: .*{words}"):
        gf.convert_state(*arguments)
