"""partition and freeze: who gets which transformation, and what the state holds."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {
    "body": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)},
    "head": {"kernel": jnp.full((2, 3), 3.0), "bias": None},
}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)
RATES = {"slow": gf.sgd(0.1), "fast": gf.sgd(1.0)}

LABELS: dict[str, Any] = {
    "prefix": {"body": "slow", "head": "fast"},
    "function": lambda params: {"body": "slow", "head": "fast"},
    "tree": {"body": {"kernel": "slow", "bias": "slow"}, "head": {"kernel": "fast", "bias": "slow"}},
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_each_parameter_has_the_transformation_of_its_label(labels: Any) -> None:
    tx = gf.partition(RATES, labels)
    state = tx.init(PARAMS)
    updates, _ = jax.jit(tx.update)(GRADS, state, PARAMS)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.1)
    np.testing.assert_allclose(updates["head"]["kernel"], -1.0)
    assert updates["head"]["bias"] is None


def test_the_first_pattern_that_matches_wins() -> None:
    tx = gf.partition({"head/**": gf.sgd(1.0), gf.ndim(2): gf.sgd(0.5), "**": gf.sgd(0.1)})
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], -1.0)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.5)
    np.testing.assert_allclose(updates["body"]["bias"], -0.1)
    assert set(state.inner_states) == {"head/**", "ndim(2)", "**"}


def test_a_leaf_has_state_only_where_it_is_transformed() -> None:
    tx = gf.partition({"a": gf.adam(0.1), "b": gf.set_to_zero()}, {"body": "a", "head": "b"})
    state = tx.init(PARAMS)
    assert state.inner_states["a"].inner_state[0].mu["body"]["bias"].shape == (2,)
    sizes = [x.size for x in jax.tree.leaves(state)]
    assert sum(sizes) == 2 * (4 + 2) + 2, "two moments of the body, and two counts"


def test_functions_see_parameters_only_and_the_state_tells_the_rest() -> None:
    seen: list[Any] = []

    def labels(params: Any) -> Any:
        seen.append(float(params["body"]["bias"][0]))
        return {"body": "a", "head": "b"}

    tx = gf.partition({"a": gf.trace(0.5), "b": gf.scale(3.0)}, labels)
    state = tx.init(PARAMS)
    updates, state = tx.update(GRADS, state)
    updates, state = tx.update(GRADS, state)
    np.testing.assert_allclose(updates["body"]["bias"], 1.5)
    np.testing.assert_allclose(updates["head"]["kernel"], 3.0)
    assert seen == [1.0]
    stateless = gf.partition({"a": gf.scale(1.0), "b": gf.scale(3.0)}, labels)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        stateless.update(GRADS, stateless.init(PARAMS))


def test_extra_arguments_reach_every_part() -> None:
    heard: list[Any] = []

    @gf.transformation
    def listener() -> Any:
        def update(updates: Any, state: Any, params: Any = None, *, noise: Any) -> Any:
            heard.append(jax.tree.structure(noise).num_leaves)
            return updates, state

        return gf.init_empty_state, update

    for alike, expected in ((True, [2, 1]), (False, [3, 3])):
        heard.clear()
        tx = gf.partition(
            {"a": listener(), "b": listener()}, {"body": "a", "head": "b"}, mask_compatible_extra_args=alike
        )
        tx.update(GRADS, tx.init(PARAMS), PARAMS, noise=GRADS)
        assert heard == expected


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: gf.partition(RATES, {"body": "slow", "head": "warm"}),
            ValueError,
            "'slow', 'fast'; got 'warm' at 'head'",
        ),
        (
            lambda: gf.partition(RATES, {"body": "slow"}),
            ValueError,
            "cover every parameter; got none at '(head/bias|head/kernel)'",
        ),
        (
            lambda: gf.partition(RATES, {"body": "slow", "head": "slow", "tail": "slow"}),
            ValueError,
            "a leaf at 'tail', where there is no parameter",
        ),
        (
            lambda: gf.partition({"body/**": gf.sgd(0.1)}),
            ValueError,
            "must have a key for the parameter at 'head/kernel'; got 'body",
        ),
        (lambda: gf.partition({}, {}), TypeError, "must be a dict of transformations"),
        (lambda: gf.partition({"a": gf.sgd}, "a"), TypeError, "It is a factory: call it"),
        (
            lambda: gf.partition({3: gf.sgd(0.1)}),
            TypeError,
            "must be patterns of paths or selectors .*; got 3",
        ),
    ],
)
def test_mistakes(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make().init(PARAMS)


def test_a_state_of_other_labels_is_refused() -> None:
    tx = gf.partition(RATES, LABELS["prefix"])
    other = gf.partition({"one": gf.sgd(0.1)}, "one").init(PARAMS)
    with pytest.raises((ValueError, TypeError), match="state"):
        tx.update(GRADS, other, PARAMS)


def test_frozen_parameters_do_not_move_and_hold_nothing() -> None:
    for tx, held in (
        (gf.chain(gf.trace(0.9), gf.freeze("body/**")), 4 + 2 + 6),
        (gf.selective_transform(gf.trace(0.9), freeze_mask="body/**"), 6),
        (gf.selective_transform(gf.trace(0.9), freeze_mask={"body": True, "head": False}), 6),
    ):
        state = tx.init(PARAMS)
        updates, state = tx.update(GRADS, state, PARAMS)
        assert sum(x.size for x in jax.tree.leaves(state)) == held
        assert not updates["body"]["kernel"].any()
        np.testing.assert_allclose(updates["head"]["kernel"], 1.0)


def test_schedules_and_addresses_reach_into_parts() -> None:
    tx = gf.partition({"head/**": gf.sgd(0.1), "**": gf.adamw(gf.linear_schedule(0.1, 0.0, 10))})
    assert "partition.head/**.sgd.learning_rate" in gf.addresses(tx)
    faster = gf.replace(tx, {"sgd.learning_rate": 0.7})
    updates, _ = faster.update(GRADS, faster.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.7, rtol=1e-6)


def test_factors_by_path() -> None:
    tx = gf.chain(gf.sgd(1.0), gf.scale_by_path({"**/bias": 2.0, "body/**": gf.linear_schedule(0.5, 0.1, 4)}))
    params = {**PARAMS, "head": {"kernel": jnp.ones((2, 3))}}
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["body"]["bias"], -2.0)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.5)
    np.testing.assert_allclose(updates["head"]["kernel"], -1.0)
    updates, _ = tx.update(grads, state, params)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.4)
    with pytest.raises(ValueError, match="'haed/\\*\\*' matches no parameter"):
        gf.scale_by_path({"haed/**": 1.0}).init(params)
    with pytest.raises(TypeError, match="'factors' must be a dict"):
        gf.scale_by_path(2.0)
    with pytest.raises((TypeError, ValueError), match="step_size"):
        gf.scale_by_path({"**": "twice"})


class Part(enum.Enum):
    """Labels that have no order."""

    BODY = 1
    HEAD = 2


@pytest.mark.parametrize("labels", [("a", 7), (Part.BODY, Part.HEAD), ("a", None)])
def test_labels_need_no_order(labels: tuple[Any, Any]) -> None:
    body, head = labels
    params = {"x": jnp.ones(2), "y": jnp.ones(3)}
    inner = {body: gf.adam(0.1), head: gf.sgd(0.5)}
    # None in a tree of labels is not a label, as in every tree.
    chosen = {"x": body, "y": body if head is None else head}
    tx = gf.partition(inner, lambda params: jax.tree.unflatten(jax.tree.structure(params), chosen.values()))
    state = tx.init(params)
    eager, after = tx.update(params, state, params)
    updates, traced = jax.jit(tx.update)(params, state, params)
    jax.tree.map(np.testing.assert_allclose, updates, eager)
    assert jax.tree.structure(state) == jax.tree.structure(after) == jax.tree.structure(traced)
    assert set(after.inner_states) == {body, head}
    np.testing.assert_allclose(updates["y"], -0.1 if head is None else -0.5, rtol=1e-6)
