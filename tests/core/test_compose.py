"""chain and its kin, foreign transformations, extra arguments, and the end of a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws.support import assert_close, run

import gradflow as gf

PARAMS = {"w": jnp.arange(3.0), "b": jnp.ones(2)}


@gf.transformation
def needs_value() -> Any:
    """Multiplies by an extra argument."""

    def update(updates: Any, state: gf.EmptyState, params: Any = None, *, value: Any) -> Any:
        return jax.tree.map(lambda u: u * value, updates), state

    return gf.init_empty_state, update


def test_chain_is_one_after_the_other() -> None:
    tx = gf.chain(gf.scale(2.0), gf.add_decayed_weights(0.5), gf.scale(3.0))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert_close(updates, jax.tree.map(lambda p: 3.0 * (2.0 * p + 0.5 * p), PARAMS))


def test_the_empty_chain_is_the_identity() -> None:
    tx = gf.chain()
    assert repr(tx) == "chain()"
    assert tx.update(PARAMS, tx.init(PARAMS))[0] is PARAMS


def test_named_chain_keeps_states_by_name() -> None:
    tx = gf.named_chain(("first", gf.scale(2.0)), ("adam", gf.adam(0.1)))
    state = tx.init(PARAMS)
    assert set(state) == {"first", "adam"}
    plain = gf.chain(gf.scale(2.0), gf.adam(0.1))
    assert_close(run(tx, PARAMS, [PARAMS])[0], run(plain, PARAMS, [PARAMS])[0])
    with pytest.raises(ValueError, match="names must differ"):
        gf.named_chain(("a", gf.identity()), ("a", gf.identity()))
    with pytest.raises(TypeError, match=r"argument 0 must be a pair \(name, transformation\)"):
        gf.named_chain(gf.identity())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (gf.adam, "argument 1 must be a transformation; got the function adam. It is a factory: call it"),
        ([gf.adam(0.1)], r"put a \* before it"),
        (gf.adam(0.1).init(PARAMS)[0], "ScaleByAdamState. A state goes to update"),
        (0.1, r"got 0.1. To multiply by a number use scale\(number\)"),
        (gf.constant_schedule(0.1), r"scale_by_learning_rate\(schedule\)"),
        (None, "got None"),
        ("adam", "got 'adam'"),
        (lambda g: g, "got the function <lambda>"),
    ],
)
def test_what_is_no_transformation_is_refused_with_a_cure(argument: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        gf.chain(gf.identity(), argument)


def test_plain_pairs_and_foreign_transformations_compose() -> None:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u: 2.0 * u, updates), state

    plain = gf.GradientTransformation(lambda params: (), update)
    for doubling in (plain, optax.scale(2.0)):
        tx = gf.chain(doubling, needs_value(), gf.scale_by_learning_rate(0.5))
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0)
        assert_close(updates, jax.tree.map(lambda p: -3.0 * p, PARAMS))


class Halving:
    """An object with `init` and `update`, as programs write one that keeps settings."""

    trees = ("of its own",)

    def init(self, params: Any) -> Any:
        return ()

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u: u / 2, updates), state


@pytest.mark.parametrize("wrap", [gf.chain, gf.masked, gf.apply_if_finite, gf.MultiSteps])
def test_objects_with_the_two_methods_compose(wrap: Any) -> None:
    further = {gf.masked: (True,), gf.apply_if_finite: (2,), gf.MultiSteps: (1,)}.get(wrap, ())
    tx = wrap(Halving(), *further)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0)
    assert_close(updates, jax.tree.map(lambda p: p / 2, PARAMS))
    with pytest.raises(TypeError, match="must be a transformation"):
        wrap(Halving, *further)


def test_ours_compose_in_a_foreign_chain() -> None:
    tx = optax.chain(optax.GradientTransformationExtraArgs(*needs_value()), optax.scale(2.0))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=3.0)
    assert_close(updates, jax.tree.map(lambda p: 6.0 * p, PARAMS))


def test_extra_arguments() -> None:
    tx = gf.chain(gf.adam(0.1), gf.chain(needs_value()))
    state = tx.init(PARAMS)
    tx.update(PARAMS, state, PARAMS, value=1.0, vlaue=2.0, anything=3)
    for wrong in ("vlaue", "valu", "valuee", "balue"):
        with pytest.raises(TypeError, match=f"extra argument '{wrong}'.*Did you mean 'value'"):
            tx.update(PARAMS, state, PARAMS, **{wrong: 1.0})
    for fine in ("values", "grad", "loss", "volume"):
        with pytest.raises(TypeError, match="needs_value: this stage needs the extra argument 'value'"):
            tx.update(PARAMS, state, PARAMS, **{fine: 1.0})


def test_errors_name_the_stage_by_its_place() -> None:
    tx = gf.chain(gf.scale(1.0), gf.chain(gf.adamw(0.1)))
    with pytest.raises(ValueError, match=r"^chain\.adamw\.add_decayed_weights: this stage needs the param"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_a_stage_that_changes_shapes_is_caught() -> None:
    tx = gf.stateless(lambda updates, params: jax.tree.map(lambda u: u[None], updates))
    with pytest.raises(ValueError, match=r"equal shapes; got .* at 'b'"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_stateless_helpers() -> None:
    tx = gf.stateless_with_tree_map(lambda u, p: u + p)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert_close(updates, jax.tree.map(lambda p: 2.0 * p, PARAMS))
    zero = gf.set_to_zero()
    assert_close(zero.update(PARAMS, zero.init(PARAMS))[0], jax.tree.map(jnp.zeros_like, PARAMS))
    assert gf.with_extra_args_support(gf.adam(0.1)) == gf.adam(0.1)


def test_python_and_numpy_numbers_are_leaves() -> None:
    tx = gf.adam(0.1)
    params = {"a": 1.0, "b": np.ones(2, np.float32)}
    updates, _ = tx.update({"a": 1.0, "b": np.ones(2, np.float32)}, tx.init(params), params)
    assert all(isinstance(u, jax.Array) and not u.weak_type for u in jax.tree.leaves(updates))
    moved = gf.apply_updates(params, updates)
    np.testing.assert_allclose(moved["a"], 0.9, rtol=1e-6)


def test_finite_results_of_a_rule_stay_finite_in_float16() -> None:
    """Its finite numbers stay finite, and what is not finite shows."""
    tx = gf.stateless_with_tree_map(lambda u, p: jnp.float32(1e4) * u.astype(jnp.float32))
    g = jnp.asarray([1.0, 100.0, -100.0, jnp.inf, jnp.nan], jnp.float16)
    for update in (tx.update, jax.jit(tx.update)):
        u, _ = update(g, tx.init(g), g)
        assert u.dtype == jnp.float16
        np.testing.assert_array_equal(u, np.float16([1e4, 65504, -65504, np.inf, np.nan]))
    # float16's largest number is between two of bfloat16.
    wide = gf.stateless_with_tree_map(lambda u, p: jnp.bfloat16(2**14) * u.astype(jnp.bfloat16))
    u, _ = wide.update(g, wide.init(g), g)
    np.testing.assert_array_equal(u, np.float16([2**14, 65504, -65504, np.inf, np.nan]))


def test_apply_updates_adds_in_the_wider_type_and_returns_the_parameters_own() -> None:
    params = {"w": jnp.full((2,), 256.0, jnp.bfloat16), "n": None, "k": jnp.ones(1)}
    updates = {"w": jnp.full((2,), 1.001, jnp.float32), "n": None, "k": None}
    moved = gf.apply_updates(params, updates)
    assert moved["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        moved["w"].astype(np.float32), [258.0, 258.0]
    )  # 257.001 to nearest; 257 is a tie
    np.testing.assert_array_equal(moved["k"], [1.0])
    counts = {"k": jnp.int32(3), "j": jnp.arange(2, dtype=jnp.int16)}
    for add in (gf.apply_updates, jax.jit(gf.apply_updates)):
        moved = add(counts, counts)
        assert (moved["k"].dtype, moved["k"].tolist(), moved["j"].tolist()) == (jnp.int32, 6, [0, 2])
    with pytest.raises(ValueError, match=r"apply_updates: .*got \(1,\) and \(2,\) at 'w'"):
        gf.apply_updates({"w": jnp.ones(2)}, {"w": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"apply_updates: .*one tree structure"):
        gf.apply_updates({"w": jnp.ones(2)}, {"v": jnp.ones(2)})


def test_incremental_and_periodic_updates() -> None:
    old, new = {"w": jnp.zeros(2), "n": None}, {"w": jnp.full((2,), 4.0), "n": None}
    np.testing.assert_allclose(gf.incremental_update(new, old, 0.25)["w"], 1.0)
    for step, expected in [(0, 4.0), (1, 0.0), (3, 4.0)]:
        np.testing.assert_array_equal(gf.periodic_update(new, old, step, 3)["w"], expected)
        moved = jax.jit(gf.periodic_update, static_argnums=3)(new, old, jnp.int32(step), 3)
        np.testing.assert_array_equal(moved["w"], expected)
    with pytest.raises(ValueError, match="incremental_update"):
        gf.incremental_update({"w": jnp.zeros(3)}, {"w": jnp.zeros(2)}, 0.5)


@pytest.mark.parametrize(
    "wrapper", [gf.with_metrics, lambda tx: gf.apply_if_finite(tx, 1), lambda tx: gf.MultiSteps(tx, 2)]
)
def test_wrappers_refuse_what_is_no_transformation(wrapper: Any) -> None:
    with pytest.raises(TypeError, match="must be a transformation; got the function adam"):
        wrapper(gf.adam)


def test_a_plain_update_may_do_without_its_params() -> None:
    def update(updates: Any, state: Any, params: Any) -> Any:
        return updates, state

    tx = gf.chain(gf.GradientTransformation(lambda params: (), update))
    assert_close(tx.update(PARAMS, tx.init(PARAMS))[0], PARAMS)


def test_abstract_integers_are_refused_like_concrete_ones() -> None:
    for tx in (gf.scale_by_adam(), gf.chain(gf.adam(0.1))):
        with pytest.raises(TypeError, match=r"got int32.* at 'w'"):
            tx.init({"w": jax.ShapeDtypeStruct((2,), jnp.int32)})
