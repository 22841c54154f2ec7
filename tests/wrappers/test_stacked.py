"""Leaves in stacks: the updates of the leaves as they are, in programs that grow with the kinds of leaves."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf

SHAPES = {
    "embed": (4, 3), "a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (4, 3), "bias": (3,)},
    "conv": [(2, 2, 3, 4), (2, 2, 3, 4)], "scale": (), "empty": [(0, 3), (0, 3)], "none": None,
}  # fmt: skip


def tree_of(seed: int) -> Any:
    def normal(shape: Any) -> Any:
        return None if shape is None else jnp.asarray(rng.normal(size=shape), jnp.float32)

    rng = np.random.default_rng(seed)
    return jax.tree.map(normal, SHAPES, is_leaf=lambda x: x is None or isinstance(x, tuple))


def matrices_of(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


SPLIT = gf.choose_matrices({"a/kernel": gf.Matrix(split={1: (1, 2)}), "conv/*": gf.Matrix(2, 3)})
# The last stages of each leaf, then rules of matrices; the second number is the tolerance, 0 for equal bits.
CASES: dict[str, tuple[Callable[[], Any], float]] = {
    "mask": (lambda: gf.adamw(0.1, mask=matrices_of), 0),
    "paths": (
        lambda: gf.partition({"a/*": gf.sgd(0.1, 0.9), gf.ndim(2): gf.adam(0.1), "**": gf.lion(0.1)}),
        0,
    ),
    "norms of leaves": (lambda: gf.lamb(0.1), 2e-6),
    "whole leaves": (lambda: gf.soap(0.1, precondition_frequency=2), 1e-4),
    "matrices": (lambda: gf.soap(0.1, precondition_frequency=2, matrices=SPLIT, mask=gf.paths("b/*")), 1e-4),
    "roles": (lambda: gf.scion(0.1), 2e-6),
    "blocks": (lambda: gf.shampoo(0.1, 0.9, 0.95, block_size=2), 1e-4),
}


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_leaves(name: str) -> None:
    make, tolerance = CASES[name]
    tx, stacked = make(), gf.stacked(make())
    params = tree_of(0)
    states = tx.init(params), stacked.init(params)
    assert jax.tree.structure(jax.eval_shape(stacked.init, params)) == jax.tree.structure(states[1])
    updates = jax.jit(tx.update), jax.jit(stacked.update)
    for seed in (1, 2, 3):
        grads = tree_of(seed)
        (expected, plain), (actual, own) = (
            update(grads, state, params) for update, state in zip(updates, states, strict=True)
        )
        states = plain, own
        for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(y), initial=0)))
    assert len(jax.tree.leaves(states[1])) < len(jax.tree.leaves(states[0]))


def test_an_inner_choice_sees_the_leaves_as_they_are() -> None:
    """Inside `for_matrices` the embedding is not in the stack, and `summary` names the leaves."""
    params = {name: jnp.ones((4, 3)) for name in ("embed", "x", "y")}
    tx = gf.for_matrices(gf.stacked(gf.chain(gf.scale_by_muon(), gf.scale_by_learning_rate(0.1))))
    state = tx.init(params)
    assert sorted(x.shape for x in jax.tree.leaves(state) if x.ndim > 1) == [(2, 4, 3), (4, 3), (4, 3)]
    counted = gf.summary(gf.stacked(gf.muon(0.1, muon_weight_dimension_numbers=gf.hidden_matrices())), params)
    assert [list(own.values()) for own in counted.matrices.values()] == [[2]]


def test_groups_of_metrics_are_those_of_the_leaves() -> None:
    inner = gf.with_metrics(gf.sgd(0.1), {"matrices": gf.ndim(2), "a": "a/**"})
    params, found = tree_of(0), []
    for tx in (inner, gf.stacked(inner)):
        found.append(gf.metrics(tx.update(tree_of(1), tx.init(params), params)[1]))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-6)


def test_a_choice_that_reads_values_is_refused_by_its_stage() -> None:
    tx = gf.stacked(gf.adamw(0.1, mask=lambda p: jax.tree.map(lambda x: bool(x.sum() > 0), p)))
    with pytest.raises(ValueError, match=r"^adamw.add_decayed_weights: inside stacked, masks"):
        tx.init([jnp.ones(2), jnp.ones(2)])


def test_leaves_that_are_not_trained_are_named_or_masked() -> None:
    keys: Any = {"x": jnp.ones(2), "k": jax.random.key(0), "l": jax.random.key(1)}
    tx = gf.stacked(gf.masked(gf.sgd(1.0), gf.paths("x")))
    updates, _ = tx.update({"x": jnp.ones(2), "k": None, "l": None}, tx.init(keys), keys)
    np.testing.assert_array_equal(updates["x"], -1.0)
    with pytest.raises(TypeError, match=r"^stacked: parameters must be .*; got the function relu at 'f'"):
        gf.stacked(gf.sgd(1.0)).init({"f": jax.nn.relu, "x": jnp.ones(2)})


def test_leaves_on_a_mesh_keep_their_layouts() -> None:
    """Leaves that lie otherwise are stacks of their own, and `shard_state` goes by path."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        specs = {"a": P("x", None), "b": P(None, "x"), "c": P("x", None)}
        params = {k: jax.device_put(jnp.full((4, 2), 0.5), NamedSharding(mesh, p)) for k, p in specs.items()}
        tx, expected = gf.stacked(gf.lamb(0.1)), gf.lamb(0.1)
        actual = jax.jit(tx.update)(params, tx.init(params), params)[0]
        plain = expected.update(params, expected.init(params), params)[0]
        for name, u in actual.items():
            assert u.sharding.is_equivalent_to(params[name].sharding, 2)
            np.testing.assert_allclose(u, plain[name], rtol=1e-6)
        with pytest.raises(ValueError, match="stacked: must not be inside of spread or shard_state"):
            gf.shard_state(gf.stacked(gf.adam(0.1)), axis="x").init(params)


def test_a_missing_gradient_is_zero_in_its_stack() -> None:
    params = {"x": jnp.ones(2), "y": jnp.ones(2), "z": jnp.ones(3)}
    tx = gf.stacked(gf.sgd(1.0, momentum=0.5))
    state = tx.init(params)
    first, state = tx.update({"x": jnp.ones(2), "y": jnp.ones(2), "z": jnp.ones(3)}, state, params)
    second, _ = tx.update({"x": jnp.ones(2), "y": None, "z": None}, state, params)
    assert second["y"] is None
    assert second["z"] is None
    np.testing.assert_array_equal(second["x"], -1.5)
    np.testing.assert_array_equal(first["y"], -1.0)


def test_a_choice_that_differs_within_a_stack_is_named() -> None:
    """A choice that only the update makes comes too late to part the stacks."""

    @gf.transformation(packable=True)
    def late() -> Any:
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            gf.masked(gf.identity(), gf.paths("x")).init(updates)
            return updates, state

        return lambda params: (), update

    params = {"x": jnp.ones(2), "y": jnp.ones(2)}
    tx = gf.stacked(late())
    with pytest.raises(ValueError, match=r"same for all leaves of a stack; got True at 'x' and False at 'y'"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (lambda: gf.chain(gf.adam(0.1), gf.centralize()), "centralize needs leaves as they are"),
        (lambda: gf.scale_by_galore(2), "scale_by_galore needs leaves as they are"),
        (lambda: gf.with_param_ema(gf.adam(0.1)), "with_param_ema keeps averages of leaves"),
        (lambda: gf.schedule_free(gf.sgd(0.1), 0.1), "schedule_free keeps averages of leaves"),
        (lambda: gf.stacked(gf.sgd(0.1)), "stacked needs leaves as they are"),
    ],
)
def test_a_stage_that_needs_leaves_is_refused_by_name(inner: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gf.stacked(inner())


def test_soap_in_stacks_is_one_loop_for_each_shape_and_copies_none() -> None:
    """Beside the stacks of the gradients and the updates there is little scratch memory."""
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(24, 24), (24, 48)] * 6]
    tx = gf.stacked(gf.chain(gf.scale_by_soap(), gf.scale_by_learning_rate(0.1)))
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(tx.update, donate_argnums=(0, 1)).lower(params, state).compile()
    text = step.as_text()
    assert not re.search(r"= f32\[6,[0-9,]+\]\S* copy\(", text)
    step_loops = [loop for loop in re.findall(r" while\(.*op_name=\"([^\"]*)\"", text) if "cond" not in loop]
    assert len(step_loops) == 2
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    memory = step.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes <= 0.5 * held
