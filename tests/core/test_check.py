"""check: what runs and is wrong is found, with its stage and a cure; what is right is not blamed."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from laws.support import extras
from specs import CASES, build

import gradflow as gf

PARAMS = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "out": jnp.ones((2, 2))}


class Kept(NamedTuple):
    value: Any


@gf.transformation
def weak() -> Any:
    def init(params: Any) -> Any:
        return Kept(jnp.asarray(0.0))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return gf.tree.scale(-0.1, updates), Kept(jnp.float32(1.0))

    return init, update


@gf.transformation
def aliasing() -> Any:
    def init(params: Any) -> Any:
        return Kept(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return gf.tree.scale(-0.1, updates), state

    return init, update


COSINE = gf.warmup_cosine_decay_schedule

WRONG: dict[str, tuple[Any, str, str, str]] = {
    "no rate": (gf.scale_by_adam(), "scale_by_adam", "no learning rate is applied", "scale_by_learning_rate"),
    "climbs": (
        gf.chain(gf.sgd(0.1), gf.scale(-1.0)),
        "chain",
        "along the gradient, so the loss increases",
        "negative",
    ),
    "twice": (
        gf.chain(gf.adam(0.1), gf.scale_by_learning_rate(0.1)),
        "chain.scale_by_learning_rate",
        r"a second time, after chain\.adam\.scale_by_learning_rate",
        "Remove one",
    ),
    "clip behind": (
        gf.chain(gf.sgd(0.1), gf.clip_by_global_norm(1.0)),
        "chain.clip_by_global_norm",
        "clips after the learning rate",
        "before the optimizer",
    ),
    "decay": (
        gf.adamw(0.1),
        "adamw.add_decayed_weights",
        "such as 'layer/bias'",
        "mask=gradflow.ndim",
    ),
    "narrow": (
        gf.chain(gf.trace(0.999, accumulator_dtype=jnp.bfloat16), gf.scale(-0.1)),
        "chain.trace",
        r"'trace/layer/bias' in bfloat16 with decay = 0\.999",
        "float32",
    ),
    "one group": (
        gf.partition({"out": gf.scale_by_adam(), "**": gf.sgd(0.1)}),
        "partition",
        "no learning rate .* at 'out'",
        "scale_by_learning_rate",
    ),
    "still": (
        gf.chain(gf.adam(0.1), gf.set_to_zero()),
        "chain",
        "do not move the parameters",
        "rate of zero",
    ),
    "weak type": (
        weak(),
        "weak",
        r"'value' is float32\[\] \(weak\) from init and float32\[\]",
        "compiles again",
    ),
    "aliases": (aliasing(), "aliasing", "cannot be donated twice", "copy=True"),
    "needs more": (gf.momo(), "momo", "a step fails: .*'value'", "extra arguments"),
    "warm-up": (
        gf.sgd(COSINE(0.0, 1.0, 500, 900)),
        "sgd.learning_rate",
        "500 warm-up steps .* 100",
        "Shorten",
    ),
    "short": (
        gf.sgd(COSINE(0.0, 1.0, 5, 50)),
        "sgd.learning_rate",
        "ends after 50 of 100 steps",
        "total number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    tx, stage, problem, cure = WRONG[name]
    result = gf.check(tx, PARAMS, steps=100)
    assert not result.ok
    finding = result.findings[0] if name != "twice" else result.findings[-1]
    assert stage in finding.stage
    assert re.search(problem, finding.problem), result
    assert cure in finding.cure
    assert str(finding) in str(result)


def test_gradients_of_another_shape_or_tree() -> None:
    grads = {**PARAMS, "out": jnp.ones((4, 2, 2))}
    (finding,) = gf.check(gf.sgd(0.1), PARAMS, grads).findings
    assert "at 'out' the gradient is float32[4,2,2] and the parameter float32[2,2]" in finding.problem
    (finding,) = gf.check(gf.sgd(0.1), PARAMS, {"layer": PARAMS["layer"]}).findings
    assert "at 'out'" in finding.problem


def test_abstract_parameters_are_checked_without_a_step() -> None:
    shapes = jax.eval_shape(lambda: PARAMS)
    result = gf.check(gf.chain(gf.adamw(0.1), gf.clip(1.0)), shapes)
    assert [f.stage for f in result.findings] == ["chain.clip", "chain.adamw.add_decayed_weights"]


def test_leaves_that_are_not_trained_have_no_gradient() -> None:
    params = {"w": jnp.ones((2, 2)), "steps": jnp.zeros((), jnp.int32), "key": jax.random.key(0)}
    assert gf.check(gf.masked(gf.adam(0.1), gf.dtype(jnp.inexact)), params).ok
    (finding,) = gf.check(gf.adam(0.1), params).findings
    assert "use masked(tx, gradflow.dtype(jax.numpy.inexact))" in finding.problem


def test_python_numbers_are_parameters() -> None:
    assert gf.check(gf.adam(0.1), {"scale": 1.0}).ok


RIGHT: dict[str, Any] = {
    "clip, decay on kernels": gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1, mask=gf.ndim(at_least=2))),
    "held back": gf.MultiSteps(gf.sgd(0.1), 20),
    "warm-up from zero": gf.sgd(gf.linear_schedule(0.0, 1.0, 10)),
    "guarded": gf.apply_if_finite(gf.lion(0.1, weight_decay=0.0), 3),
    "climbs first": gf.sam(gf.sgd(0.1), gf.chain(gf.normalize(), gf.sgd(0.05))),
    "climbs once in a round": gf.looksam(gf.sgd(0.1), gf.chain(gf.normalize(), gf.sgd(0.05)), 3),
    "another library's pair": gf.GradientTransformation(*gf.sgd(0.1)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_blamed(name: str) -> None:
    result = gf.check(RIGHT[name], PARAMS)
    assert result.ok, result
    assert str(result) == "check: nothing found"


NAMED = [
    name
    for name in CASES
    if name in dir(gf.optimizers)
    and not name.startswith("scale_by")
    # Stages, and an optimizer of single examples.
    and name not in ("dpsgd", "shrink_by_learning_rate", "orthogonalize", "step_by_muown")
]


@pytest.mark.parametrize("name", NAMED)
def test_no_optimizer_climbs_or_is_blamed_for_its_state(name: str) -> None:
    tx, params = build(name), PARAMS["layer"]
    more = extras(tx, params, params)
    # A line search compares values of the loss, so the gradient has to be its own.
    result = gf.check(tx, params, params if "value_fn" in more else None, **more)
    decays = ("add_decayed_weights", "step_with_decay")
    assert [f for f in result.findings if not f.stage.endswith(decays)] == []


def test_what_float16_parameters_lack() -> None:
    half = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float16), PARAMS)
    for tx, lacking in (
        (gf.sgd(0.1), ["master_params(tx)", "with_loss_scale(tx)"]),
        (gf.master_params(gf.sgd(0.1)), ["with_loss_scale(tx)"]),
        (gf.with_loss_scale(gf.sgd(0.1)), ["master_params(tx)"]),
        (gf.with_loss_scale(gf.master_params(gf.sgd(0.1))), []),
    ):
        cures = [finding.cure for finding in gf.check(tx, half).findings]
        assert len(cures) == len(lacking)
        assert all(word in cure for word, cure in zip(lacking, cures, strict=True))
    assert gf.check(gf.sgd(0.1), PARAMS).ok


def test_a_projection_that_moves_a_point_of_its_set():
    params = {"w": jnp.array([3.0, 1.0])}
    halved = gf.check(gf.projected(gf.sgd(0.1), lambda p: jax.tree.map(lambda x: x / 2, p)), params)
    (finding,) = [f for f in halved.findings if f.stage == "projected"]
    assert finding.problem == "projection moves a point of its own set, by 0.75 at 'w'"
    for right in (
        gf.projections.projection_simplex,
        gf.projections.projection_l2_ball,
        gf.box_constraint(0.0, 1.0),
    ):
        result = gf.check(gf.chain(gf.clip(1.0), gf.projected(gf.sgd(0.1), right)), params)
        assert not any(f.stage == "projected" for f in result.findings)
