"""The mistakes that people make most: the message has the cure, the traceback one frame of gradflow's."""

import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow import _vocabulary, lab, losses
from gradflow._expressions._registry import OWN_FACTORIES

PARAMS = {"body": {"w": jnp.ones((2, 2))}, "b": jnp.ones(2)}
GRADS = PARAMS
TX = gf.adam(1e-3)
STATE = TX.init(PARAMS)


def _update(schedule: Any) -> Any:
    tx = gf.scale_by_learning_rate(schedule)
    return jax.jit(tx.update)(GRADS, tx.init(PARAMS))


def _steps(count: Any) -> float:
    return 0.1 if count < 10 else 0.01


MISTAKES: list[tuple[str, Any, str]] = [
    ("lr", lambda: gf.adamw(lr=1e-3), "adamw: .*'lr'. It is called 'learning_rate' here"),
    ("betas", lambda: gf.adam(1e-3, betas=(0.9, 0.99)), "'betas'. Pass b1 and b2, one by one: b1=0.9"),
    ("wd", lambda: gf.adamw(1e-3, wd=0.1), "adamw: .*'wd'. It is called 'weight_decay' here"),
    ("decay of adam", lambda: gf.adam(1e-3, weight_decay=0.1), "'weight_decay'. Use adamw, which has"),
    ("wd of adam", lambda: gf.adam(1e-3, wd=0.1), "'wd'. Use adamw, which has 'weight_decay'"),
    ("decay of sgd", lambda: gf.sgd(0.1, weight_decay=0.1), r"Put add_decayed_weights\(weight_decay\)"),
    ("epsilon", lambda: gf.adam(1e-3, epsilon=1e-7), "'epsilon'. It is called 'eps' here"),
    ("beta_1", lambda: gf.adam(1e-3, beta_1=0.8), "'beta_1'. It is called 'b1' here"),
    ("amsgrad", lambda: gf.adam(1e-3, amsgrad=True), "'amsgrad'. Use gradflow.amsgrad"),
    ("a typing error", lambda: gf.adam(1e-3, nesterv=True), "'nesterv'. Did you mean 'nesterov'?"),
    ("T_max", lambda: gf.cosine_decay_schedule(1e-3, T_max=9), "'T_max'. It is called 'decay_steps' here"),
    ("params", lambda: gf.adam(PARAMS, 1e-3), "The optimizer takes no parameters: pass them to init"),
    ("an array", lambda: gf.adam(jnp.ones(3), 1e-3), "got an array of shape .* pass them to init"),
    ("a text", lambda: gf.adam("1e-3"), "got '1e-3'. Pass the number 0.001, without quotes"),
    ("a class", lambda: gf.AdamW, "no attribute 'AdamW'. Did you mean 'adamw'?"),
    ("a loss", lambda: losses.mse_loss, "'mse_loss'. Did you mean 'squared_error'?"),
    ("l1", lambda: losses.l1_loss, "'l1_loss'. Write jax.numpy.abs"),
    ("a scheduler", lambda: gf.CosineAnnealingLR, "Did you mean 'cosine_decay_schedule'?"),
    ("an old name", lambda: gf.additive_weight_decay, "Did you mean 'add_decayed_weights'?"),
    (
        "hyperparams",
        lambda: gf.set_hyperparams(gf.tunable(gf.sgd(0.1)).init(PARAMS), {"sgd.lr": 1.0}),
        r"address 'sgd.lr'. Did you mean 'sgd.learning_rate'\?$",
    ),
    ("replace", lambda: gf.replace(TX, {"lr": 1.0}), r"'lr'. Did you mean 'adam.learning_rate'\?$"),
    (
        "apply",
        lambda: gf.apply_updates(PARAMS, TX.update(GRADS, STATE)),
        r"apply_updates: .*the pair \(updates, state\) that update returns: pass its first item",
    ),
    (
        "value and grad",
        lambda: TX.update((jnp.float32(1.0), GRADS), STATE, PARAMS),
        r"adam: .*the pair \(value, gradient\) of jax.value_and_grad: pass its second item",
    ),
    (
        "value, aux and grad",
        lambda: TX.update(((jnp.float32(1.0), {"accuracy": 1.0}), GRADS), STATE, PARAMS),
        r"adam: .*the pair \(value, gradient\) of jax.value_and_grad",
    ),
    ("a list", lambda: gf.chain([gf.clip(1.0), TX]), r"chain: .*put a \* before it"),
    ("a factory", lambda: gf.chain(gf.clip(1.0), gf.adam), r"call it, as in adam\(\.\.\.\)"),
    ("patterns", lambda: gf.freeze(["body/**"]), r"^freeze: .* in a tuple.* gradflow.paths\('body/\*\*'\)"),
    ("patterns of a decay", lambda: gf.adamw(1e-3, mask=["**/bias"]), r"pass gradflow.paths\('\*\*/bias'\)"),
    ("step", lambda: TX.step(), r"no attribute 'step'.*gradflow.apply_updates\(params, updates\)"),
    ("zero_grad", lambda: TX.zero_grad(), "there is nothing to reset"),
    ("state_dict", lambda: TX.state_dict(), r"gradflow.state_dict\(tx, state\)"),
    ("nesterov", lambda: gf.sgd(0.1, nesterov=True), "sgd: argument 'momentum' must be .*nesterov=True"),
    ("if", lambda: _update(_steps), "scale_by_learning_rate: the schedule .* Use jax.numpy.where"),
    ("a vector", lambda: _update(lambda count: jnp.ones(3)), r"must return one number; got float32\[3\]"),
    ("None", lambda: _update(lambda count: None), "must return a number; got None"),
    ("no argument", lambda: gf.sgd(lambda: 0.1), "sgd: .* a function of the step count; got a function of 0"),
    ("steps", lambda: gf.make_step(gf.adam(0.1), len), "'loss_fn' must be a function; got a GradientTrans"),
    ("vector", lambda: gf.minimize(lambda p: p**2, jnp.ones(3)), "Return its sum or mean"),
    ("text", lambda: lab.parse("adamw(lr=1e-3)"), "It is called 'learning_rate' here"),
    ("order of minimize", lambda: gf.minimize(jnp.ones(3), jnp.sum), "The loss function comes first"),
    ("order of make_step", lambda: gf.make_step(TX, jnp.sum), "The loss function comes first"),
    ("a keyword", lambda: gf.replace(TX, learning_rate=1.0), r"Write replace\(tx, {'learning_rate': 1e-3}\)"),
    ("saved", lambda: gf.load_state_dict(STATE, {}), r"Write state, report = load_state_dict\(tx, params, s"),
    ("no updates", lambda: gf.apply_updates(PARAMS), "apply_updates: missing a required argument: 'updates'"),
    ("pairs", lambda: gf.partition([("b", TX)]), r"must be a dict; got a tuple of .* Pass dict\(pairs\)"),
    ("no k", lambda: gf.MultiSteps(TX), "MultiSteps: missing a required argument: 'every_k_schedule'"),
    ("half", lambda: gf.MultiSteps(TX, 2.5), "must be a whole number >= 1 or a function; got 2.5"),
    ("capitals", lambda: gf.EMA, r"Did you mean 'ema'\?$"),
    (
        "lbfgs",
        lambda: gf.lbfgs().update(GRADS, gf.lbfgs().init(PARAMS), PARAMS),
        r"needs the extra argument 'value'.* gradflow.make_step\(loss_fn, tx\) passes it",
    ),
    (
        "float labels",
        lambda: losses.softmax_cross_entropy_with_integer_labels(jnp.ones((4, 3)), jnp.ones(4)),
        "argument 'labels' must be integers",
    ),
    (
        "labels of another length",
        lambda: losses.softmax_cross_entropy(jnp.ones((4, 3)), jnp.ones(4, int)),
        "must have the shape of logits",
    ),
    ("one input", lambda: losses.squared_error(jnp.ones(3), target=1.0), "'target'. Did you mean 'targets'?"),
    ("uncalled", lambda: gf.sgd(gf.linear_schedule), r"Call it, as in linear_schedule\(\.\.\.\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_has_its_cure_and_a_short_traceback(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError), match=message) as caught:
        call()
    own = [frame for frame in traceback.extract_tb(caught.tb) if _is_own(frame.filename)]
    assert len(own) == 1, own


def _is_own(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(gf.__file__).parent)


def test_the_switch_shows_all_frames() -> None:
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(TypeError) as caught:
            gf.chain(gf.clip(1.0), gf.adam)
    finally:
        jax.config.update("jax_traceback_filtering", "auto")
    assert sum(_is_own(frame.filename) for frame in traceback.extract_tb(caught.tb)) > 3


def test_an_error_of_the_callers_own_code_keeps_its_frames() -> None:
    def broken(count: Any) -> Any:
        raise RuntimeError("not a check")

    tx = gf.adam(broken)
    with pytest.raises(RuntimeError, match="not a check") as caught:
        tx.update(GRADS, tx.init(PARAMS), PARAMS)
    names = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert names[-1] == "broken"
    assert len(names) > 5


def test_every_suggested_name_exists() -> None:
    assert [n for n in _vocabulary._NAMES.values() if not hasattr(gf, n)] == []
    assert [n for n in _vocabulary._NAMES if n in gf.__all__] == [], "a name of gradflow's needs no hint"
    arguments = {name for factory in OWN_FACTORIES.values() for name in factory.parameters}
    assert set(_vocabulary._RENAMED) <= arguments
    assert [name for name in _vocabulary.CALLS if not hasattr(gf, name)] == []


def test_an_attribute_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(TX, "init_fn")
    assert not hasattr(losses, "__path_of_another__")
