"""masked: which leaves are seen, what the state holds, and where the mask comes from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3), "ids": jnp.arange(4), "none": None}
GRADS = {"w": jnp.full((2, 3), 2.0), "b": jnp.full(3, 3.0), "ids": jnp.arange(4), "none": None}


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


MASKS = {
    "function": matrices,
    "tree": {"w": True, "b": False, "ids": False},
    "numpy": {"w": np.True_, "b": np.False_, "ids": np.False_},
    "with None": {"w": True, "b": False, "ids": False, "none": None},
    "numbers": {"w": 1, "b": jnp.float32(0), "ids": np.int8(0)},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("with_params", [True, False])
def test_only_the_chosen_leaves_are_transformed(mask: Any, with_params: bool) -> None:
    tx = gf.masked(gf.trace(0.5), mask)
    state = tx.init(PARAMS)
    assert isinstance(state, gf.MaskedState)
    for value in (2.0, 3.0):
        u, state = tx.update(GRADS, state, PARAMS if with_params else None)
        np.testing.assert_array_equal(u["w"], np.full((2, 3), value))
        assert u["b"] is GRADS["b"]
        assert u["ids"] is GRADS["ids"]
        assert u["none"] is None
        trace = state.inner_state.trace
        assert trace["b"] == trace["ids"] == gf.MaskedNode()
        assert trace["none"] is None
        assert len(jax.tree.leaves(state)) == 1


def test_masks_of_equal_flags_are_equal_and_print_alike() -> None:
    first, *others = [gf.masked(gf.trace(0.5), MASKS[name]) for name in ("tree", "numpy", "numbers")]
    for tx in others:
        assert tx == first
        assert repr(tx) == repr(first)


def test_elsewhere_zero_freezes() -> None:
    tx = gf.masked(gf.sgd(0.1), matrices, elsewhere="zero")
    u, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(u["b"], np.zeros(3))
    assert u["ids"].dtype == jnp.int32
    moved = gf.apply_updates(PARAMS, u)
    np.testing.assert_array_equal(moved["b"], PARAMS["b"])
    np.testing.assert_array_equal(moved["ids"], PARAMS["ids"])
    np.testing.assert_allclose(moved["w"], np.full((2, 3), 0.8), rtol=1e-6)


def test_gradients_of_integers_pass() -> None:
    params = {"w": jnp.ones(2), "ids": jnp.arange(3)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    for elsewhere in ("pass", "zero"):
        tx = gf.masked(gf.sgd(0.1), {"w": True, "ids": False}, elsewhere=elsewhere)
        u, _ = tx.update(grads, tx.init(params), params)
        assert u["ids"] is None, "float0 is no update"
        np.testing.assert_allclose(u["w"], [-0.2, -0.2], rtol=1e-6)


def test_a_prefix_and_the_whole() -> None:
    params = {"encoder": {"a": jnp.ones(2), "b": jnp.ones(2)}, "head": [jnp.ones(1)]}
    for mask, left in (({"encoder": True, "head": False}, 1), (True, 0), (False, 3)):
        tx = gf.masked(gf.trace(0.9), mask)
        state = tx.init(params)
        assert len(jax.tree.leaves(state)) == 3 - left
        u, _ = tx.update(params, state, params)
        assert jax.tree.structure(u) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "mask",
    [{"net/~/linear": {"w": True}, "net/linear": {"w": False}}, {"net/~/linear": True, "net/linear": False}],
    ids=["whole", "prefix"],
)
def test_keys_that_spell_one_path_have_their_own_answers(mask: Any) -> None:
    # The two layers of a haiku module: one made in its constructor, one where it is called.
    params = {"net/~/linear": {"w": jnp.ones(2)}, "net/linear": {"w": jnp.ones(2)}}
    labels = jax.tree.map(lambda chosen: "up" if chosen else "same", mask)
    for tx in (
        gf.masked(gf.scale(2.0), mask),
        gf.partition({"up": gf.scale(2.0), "same": gf.identity()}, labels),
    ):
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_array_equal(updates["net/~/linear"]["w"], [2, 2])
        np.testing.assert_array_equal(updates["net/linear"]["w"], [1, 1])


def test_a_mask_function_is_never_called_on_updates() -> None:
    seen: list[Any] = []

    def mask(params: Any) -> Any:
        seen.append(params)
        return {"a": True, "b": False}

    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    tx = gf.masked(gf.trace(0.9), mask)
    state = tx.init(params)
    tx.update(grads, state, params)
    tx.update(grads, state)
    assert all(float(p["a"][0]) == 1 for p in seen)
    assert len(seen) == 2


def test_without_parameters_and_without_a_trace_of_the_choice_shapes_decide() -> None:
    for inner in (gf.scale(2.0), gf.masked(gf.scale(2.0), matrices), gf.chain(gf.scale(2.0))):
        tx = gf.masked(inner, matrices)
        u, _ = tx.update(GRADS, tx.init(PARAMS))
        np.testing.assert_array_equal(u["w"], 2 * GRADS["w"])
        assert u["b"] is GRADS["b"]
        assert u["none"] is None
    split = gf.partition({"matrix": gf.scale(-1.0), "other": gf.scale(3.0)}, by_rank)
    grads = {"w": GRADS["w"], "b": GRADS["b"]}
    u, _ = split.update(grads, split.init(grads))
    np.testing.assert_array_equal(u["w"], -GRADS["w"])
    np.testing.assert_array_equal(u["b"], 3 * GRADS["b"])
    whole = gf.masked(gf.trace(0.9), lambda p: True)
    np.testing.assert_array_equal(whole.update(jnp.ones(2), whole.init(jnp.ones(2)))[0], np.ones(2))


def by_rank(params: Any) -> Any:
    return jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "other", params)


@pytest.mark.parametrize("of_leaf", [lambda p: bool(p.sum() > 0), lambda p: bool(jnp.any(p > 0))])
def test_a_function_that_reads_values_needs_the_parameters(of_leaf: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = gf.masked(gf.scale(2.0), lambda params: jax.tree.map(of_leaf, params))
    with pytest.raises(ValueError, match=r"masked: .* its mask .*call update\(updates, state, params\)"):
        tx.update(params, tx.init(params))
    tx = gf.partition(
        {True: gf.scale(2.0), False: gf.scale(1.0)}, lambda params: jax.tree.map(of_leaf, params)
    )
    with pytest.raises(ValueError, match=r"partition: .* its labels .*call update\(updates, state, params\)"):
        tx.update(params, tx.init(params))


def test_masks_inside_masks() -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}
    inner = gf.masked(gf.chain(gf.trace(0.0), gf.scale(10.0)), {"a": True, "b": False, "c": True})
    tx = gf.masked(inner, {"a": True, "b": True, "c": False})
    u, state = tx.update(params, tx.init(params), params)
    assert [float(u[k][0]) for k in "abc"] == [10.0, 1.0, 1.0]
    assert len(jax.tree.leaves(state)) == 1
    decayed = gf.masked(
        gf.adamw(0.1, mask={"a": True, "b": False, "c": True}), {"a": True, "b": True, "c": False}
    )
    u, _ = decayed.update(params, decayed.init(params), params)
    assert u["c"] is params["c"]
    by_function = gf.masked(gf.adamw(0.1, mask=matrices), lambda p: {"a": True, "b": False, "c": True})
    by_function.update(params, by_function.init(params), params)


def test_a_module_of_booleans_is_a_mask_and_not_a_function() -> None:
    @jax.tree_util.register_pytree_with_keys_class
    class Module:
        def __init__(self, w: Any, b: Any) -> None:
            self.w, self.b = w, b

        def __call__(self, x: Any) -> Any:
            raise AssertionError("called")

        def tree_flatten_with_keys(self) -> Any:
            keys = jax.tree_util.GetAttrKey
            return ((keys("w"), self.w), (keys("b"), self.b)), None

        @classmethod
        def tree_unflatten(cls, _: Any, children: Any) -> Any:
            return cls(*children)

    params = Module(jnp.ones(2), jnp.ones(3))
    tx = gf.masked(gf.trace(0.9), Module(True, False))
    u, state = tx.update(params, tx.init(params), params)
    assert isinstance(u, Module)
    assert len(jax.tree.leaves(state)) == 1


def test_extra_arguments_built_like_the_updates_are_masked_on_request() -> None:
    seen: list[Any] = []

    @gf.transformation
    def taker() -> Any:
        def update(updates: Any, state: gf.EmptyState, params: Any = None, *, like: Any, value: Any) -> Any:
            seen.append((like, value))
            return updates, state

        return gf.init_empty_state, update

    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    for on in (True, False):
        tx = gf.masked(taker(), {"a": True, "b": False}, mask_compatible_extra_args=on)
        tx.update(params, tx.init(params), params, like=params, value=jnp.ones(()))
    assert seen[0][0] == {"a": params["a"], "b": gf.MaskedNode()}
    assert seen[1][0] is params
    assert all(value.shape == () for _, value in seen)


def test_gradients_that_are_none() -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    for mask in (lambda p: {"a": True, "b": False}, {"a": True, "b": False}):
        tx = gf.masked(gf.trace(0.5), mask)
        state = tx.init(params)
        for given in (params, None):
            u, after = tx.update({"a": None, "b": None}, state, given)
            assert u == {"a": None, "b": None}
            assert jax.tree.structure(after) == jax.tree.structure(state)


def test_mistakes_are_named() -> None:
    for mask, error, words in (
        ({"w": True}, ValueError, "cover every parameter; got none at 'b'"),
        ({"w": True, "b": False, "ids": False, "extra": True}, ValueError, "leaf at 'extra'"),
        ({"w": 2.0, "b": False, "ids": False}, TypeError, "True or False; got 2.0 at 'w'"),
        (lambda p: None, ValueError, "cover every parameter"),
    ):
        with pytest.raises(error, match=words):
            gf.masked(gf.trace(0.9), mask).init(PARAMS)
    tx = gf.masked(gf.trace(0.9), matrices)
    with pytest.raises(TypeError, match="MaskedState"):
        tx.update(GRADS, gf.trace(0.9).init({"w": jnp.ones((2, 3))}), PARAMS)
    with pytest.raises(TypeError, match="ids"):
        gf.masked(gf.trace(0.9), lambda p: jax.tree.map(lambda x: True, p)).init(PARAMS)


def test_reports_come_through() -> None:
    tx = gf.masked(gf.clip_by_global_norm(1.0), {"w": True, "b": False, "ids": False})
    with gf.collecting() as heard:
        tx.update(GRADS, tx.init(PARAMS), PARAMS)
    (norm,) = (float(v) for name, v in heard.values.items() if name.endswith("norm"))
    assert norm == pytest.approx(np.sqrt(24))


def test_a_transformation_of_another_library_may_be_masked() -> None:
    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        state = jax.tree.map(lambda s, u: s + u, state, updates)
        return state, state

    tx = gf.masked(gf.GradientTransformation(init, update), {"w": True, "b": False, "ids": False})
    u, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(u["w"], GRADS["w"])
    assert state.inner_state["b"] == gf.MaskedNode()
