"""Laws 1 to 4: what goes in and comes out, leaf by leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import CASES, LEAVES_VECTORS_OUT, PARTS, REPRESENTATIVES, build, leaf_policy, over_all
from trees import MIXED, MIXED_OTHER, filled, small

import gradflow as gf
from laws.support import (
    abstract_update,
    aliases,
    assert_finite,
    avals,
    compiled_step,
    extras,
    no_nan,
    run,
    run_interpreted,
)


@over_all("state is stable")
def test_state_keeps_structure_shapes_dtypes_and_strong_types(case: str) -> None:
    tx = build(case)
    params, grads = filled(0, MIXED), filled(1, MIXED_OTHER)
    state = tx.init(params)
    before = avals(state)
    assert not any(weak for _, _, weak in before[1])
    _, after = abstract_update(tx, grads, state, params)
    assert avals(after) == before


@over_all("state is stable", REPRESENTATIVES)
def test_state_is_stable_in_eager_steps(case: str) -> None:
    tx = build(case)
    params = filled(0, MIXED)
    state = tx.init(params)
    _, params, after = run(tx, params, [filled(1, MIXED_OTHER), filled(2, MIXED_OTHER)], state)
    assert avals(after) == avals(state)
    assert not aliases(after, params)


def _dtypes_asked_for(case: str) -> list[str]:
    """The addresses of arguments that say in which dtype a part of the state is held."""
    parts = gf.addresses(build(case))
    ends = (".mu_dtype", ".accumulator_dtype", ".state_dtype")
    # Gradient descent without momentum has nothing to hold.
    plain = {address for address, value in parts.items() if address.endswith(".momentum") and value is None}
    return [
        address
        for address in parts
        if address.endswith(ends) and address.replace("accumulator_dtype", "momentum") not in plain
    ]


@over_all("dtypes asked for", [case for case in CASES if _dtypes_asked_for(case)])
def test_state_is_held_in_the_dtype_that_is_asked_for(case: str) -> None:
    params, grads = small(0), small(1)
    for address in _dtypes_asked_for(case):
        tx = gf.replace(build(case), {address: "bfloat16"})
        state = jax.eval_shape(tx.init, params)
        assert jnp.dtype("bfloat16") in {leaf.dtype for leaf in jax.tree.leaves(state)}, address
        assert avals(abstract_update(tx, grads, state, params)[1]) == avals(state)


@over_all("abstract init")
def test_init_of_abstract_parameters_is_the_abstract_state(case: str) -> None:
    tx = build(case)
    params = filled(0, MIXED)
    abstract = tx.init(jax.eval_shape(lambda: params))
    assert avals(abstract) == avals(tx.init(params))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))


@over_all("dtype of updates")
def test_update_has_the_shape_of_its_gradient_and_the_promoted_dtype(case: str) -> None:
    tx = build(case)
    params, grads = filled(0, MIXED), filled(1, MIXED_OTHER)
    updates, _ = abstract_update(tx, grads, tx.init(params), params, **extras(tx, params, grads))
    assert avals(jax.eval_shape(gf.apply_updates, params, updates)) == avals(params)
    for u, g, p in zip(*map(jax.tree.leaves, (updates, grads, params)), strict=True):
        assert u.shape == g.shape
        with jax.numpy_dtype_promotion("standard"):
            assert u.dtype == jnp.promote_types(g.dtype, p.dtype)


@over_all("dtype of updates without parameters")
def test_update_without_parameters_has_the_shape_and_dtype_of_its_gradient(case: str) -> None:
    tx = build(case)
    params, grads = filled(0, MIXED), filled(1, MIXED_OTHER)
    try:
        updates, _ = abstract_update(tx, grads, tx.init(params), None, **extras(tx, params, grads))
    except ValueError as error:
        assert "needs the parameters" in str(error)
        return
    for u, g in zip(*map(jax.tree.leaves, (updates, grads)), strict=True):
        assert (u.shape, u.dtype) == (g.shape, g.dtype)


@over_all("none leaves")
def test_none_is_no_update(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    state = tx.init(params)
    partial = {**grads, "bias": None}
    (updates,), moved, after = run_interpreted(tx, params, [partial])
    assert updates["bias"] is None
    assert avals(after) == avals(state)
    np.testing.assert_array_equal(moved["bias"], params["bias"])
    params = {**params, "bias": None}
    (updates,), _, _ = run_interpreted(tx, params, [partial])
    assert updates["bias"] is None
    assert updates["kernel"].shape == (4, 3)


@over_all("odd trees")
@pytest.mark.parametrize("tree", [(), {"a": None}])
def test_trees_without_leaves(case: str, tree: Any) -> None:
    _leafless(case, tree)


@over_all("odd trees", REPRESENTATIVES)
@pytest.mark.parametrize("tree", [{}, [], {"a": {}}])
def test_other_trees_without_leaves(case: str, tree: Any) -> None:
    _leafless(case, tree)


def _leafless(case: str, tree: Any) -> None:
    tx = build(case)
    updates, _ = tx.update(tree, tx.init(tree), tree, **extras(tx, tree, tree))
    assert jax.tree.structure(updates) == jax.tree.structure(tree)


@over_all("odd trees")
def test_a_bare_array_is_a_tree(case: str) -> None:
    tx = build(case)
    x = jnp.ones((3,), jnp.float32)
    updates, _ = abstract_update(tx, x, tx.init(x), x)
    assert updates.shape == (3,)


def _check_refusal(case: str, params: Any, path: str) -> None:
    """Leaves without arithmetic are refused by path: at init by what keeps numbers, else by an update."""
    tx = build(case)
    if leaf_policy(case) == "any" or case in LEAVES_VECTORS_OUT:
        assert tx.init(params) is not None
        return
    try:
        state = tx.init(params)
    except TypeError as error:
        assert path in str(error)
        return
    trained = jax.tree.map(lambda p: p if p.dtype == jnp.float32 else None, params)
    assert avals(jax.tree.leaves(state)) == avals(jax.tree.leaves(tx.init(trained))), "a leaf of it is kept"
    with pytest.raises(TypeError, match=path):
        tx.update(params, state, params, **extras(tx, params, params))


@over_all("integers are refused")
def test_integers_are_refused_or_pass(case: str) -> None:
    params = {"layer": {"table": jnp.arange(3), "kernel": jnp.ones((3, 2))}}
    _check_refusal(case, params, "layer/table")


@over_all("keys are refused")
def test_random_keys_are_refused_or_pass(case: str) -> None:
    _check_refusal(case, {"key": jax.random.split(jax.random.key(0), 3)}, "key")


@over_all("complex")
def test_complex_parameters_work_or_are_refused(case: str) -> None:
    tx = build(case)
    params, grads = small(0, jnp.complex64), small(1, jnp.complex64)
    if leaf_policy(case) == "real":
        with pytest.raises(TypeError, match="real"):
            tx.init(params)
        return
    history, params, state = run_interpreted(tx, params, [grads, grads])
    assert_finite((history, params, state))
    assert all(u.dtype == jnp.complex64 for u in jax.tree.leaves(history))


@over_all("zero gradients")
def test_zero_gradients_are_finite_and_leave_no_poison(case: str) -> None:
    tx = build(case)
    params, some = small(0), small(1)
    zero = jax.tree.map(jnp.zeros_like, some)
    history, params, state = run_interpreted(tx, params, [zero, zero, some, zero])
    assert_finite((history, params, state))


@over_all("extreme gradients", PARTS)
def test_extreme_gradients_never_give_nan(case: str) -> None:
    tx, step = build(case), compiled_step(case)
    for size in (1e-45, 1e19, 1e38, -1e-45, -1e19, -1e38):
        params = small(0)
        state = tx.init(params)
        extreme = jax.tree.map(lambda p, size=size: jnp.full_like(p, np.float32(size)), params)
        for grads in (extreme, small(1), extreme, small(2)):
            updates, state, params = step(grads, state, params)
            no_nan((updates, state))


@over_all("map_params finds what belongs to parameters")
def test_map_params_finds_what_belongs_to_parameters(case: str) -> None:
    tx, params = build(case), small(0)
    state = jax.eval_shape(tx.init, params)
    found = gf.tree.map_params(tx, lambda x: True, state, transform_non_params=lambda x: False)
    for path, is_found in jax.tree_util.tree_leaves_with_path(found):
        assert is_found == any(getattr(key, "key", None) in params for key in path), path
