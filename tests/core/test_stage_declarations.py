"""What a stage says of itself: how far its trees are alike, and where its steps are counted."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow.typing import Finite

PARAMS = {"w": jnp.zeros(3, jnp.bfloat16)}


@gf.transformation(trees="structure")
def row_sum() -> Any:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return {"w": updates["w"].sum(0)}, state

    return gf.init_empty_state, update


@gf.transformation(trees="alike")
def doubled(inner: gf.GradientTransformation) -> Any:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return inner.update({"w": jnp.stack([updates["w"]] * 2)}, state, params)

    return inner.init, update


def test_a_stage_of_other_shapes_loosens_the_chain_that_it_is_in() -> None:
    rows = {"w": jnp.ones((2, 3))}
    for tx in (row_sum(), gf.chain(row_sum(), gf.scale(1.0)), gf.with_metrics(gf.chain(row_sum()))):
        updates, _ = tx.update(rows, tx.init(PARAMS), PARAMS)
        assert updates["w"].tolist() == [2.0, 2.0, 2.0]
        assert updates["w"].dtype == jnp.float32
        with pytest.raises(ValueError, match="must have one tree structure"):
            tx.update([rows["w"]], tx.init(PARAMS), PARAMS)


def test_a_wrapper_that_says_otherwise_is_checked_as_ever() -> None:
    tx = gf.chain(doubled(row_sum()))
    assert tx.update({"w": jnp.ones(3)}, tx.init(PARAMS), PARAMS)[0]["w"].tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"equal shapes; got \(2,\) and \(3,\) at 'w'"):
        tx.update({"w": jnp.ones(2)}, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="'trees' must be one of alike, structure, differ; got 'same'"):
        gf.transformation(trees="same")


@gf.transformation(constrained_by=("half",))
def above(half: Any = None) -> Any:
    def update(updates: Any, state: Any, params: Any) -> Any:
        return updates if half is None else {"w": jnp.maximum(updates["w"], half - params["w"])}, state

    return gf.init_empty_state, update


@gf.transformation
def projected(inner: gf.GradientTransformation) -> Any:
    """A stage with the name of another, and without its set."""
    return inner.init, inner.update


def test_minimize_refuses_a_stage_that_says_that_it_has_a_set() -> None:
    def loss(p: Any) -> Any:
        return jnp.sum((p["w"] - 2) ** 2)

    start = {"w": jnp.zeros(2)}
    with pytest.raises(ValueError, match="no penalty or set of its own with 'bounds'; got above"):
        gf.minimize(loss, start, gf.chain(gf.sgd(0.1), above(0.5)), bounds=(0.0, 1.0))
    found = gf.minimize(loss, start, projected(gf.sgd(0.1)), bounds=(0.0, 1.0))
    assert found.params["w"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"above: argument 'constrained_by' must name .* got \['quarter'\]"):
        gf.transformation(constrained_by=("quarter",))(above.__wrapped__)


class Windows(NamedTuple):
    """A field called count that counts something else, and the steps."""

    count: Any
    calls: Any


def test_steps_are_counted_where_a_stage_says() -> None:
    asked = []

    def follow(count: Any) -> Any:
        asked.append(int(count))
        return jnp.float32(1)

    def make(steps: str | None) -> Any:
        @gf.transformation(steps=steps)
        def stage(factor: Finite) -> Any:
            def init(params: Any) -> Any:
                return Windows(jnp.int32(7), jnp.int32(0))

            def update(updates: Any, state: Windows, params: Any = None) -> Any:
                return updates, Windows(state.count, state.calls + 1)

            return init, update

        return stage(follow)

    for steps, expected in (("calls", [0, 1]), ("count", [7, 7]), (None, [0, 1])):
        tx = make(steps)
        state = tx.init(PARAMS)
        assert isinstance(state, gf.ScheduledState) == (steps is None)
        asked.clear()
        for _ in range(2):
            _, state = tx.update(PARAMS, state, PARAMS)
        assert asked == expected


def test_a_wrapper_of_real_leaves_refuses_complex_ones_itself() -> None:
    @gf.transformation(leaves="real")
    def around(inner: gf.GradientTransformation) -> Any:
        return inner.init, lambda updates, state, params=None: inner.update(updates, state, params)

    @gf.transformation(leaves="real")
    def composed(rate: float) -> Any:
        return gf.chain(gf.trace(0.9), gf.scale(rate))

    z = {"w": jnp.ones(2, jnp.complex64)}
    for tx in (around(gf.trace(0.9)), composed(0.1)):
        with pytest.raises(TypeError, match=r"must be real floating-point arrays.*'w'"):
            tx.init(z)
        real = {"w": jnp.ones(2)}
        tx.update(real, tx.init(real), real)
