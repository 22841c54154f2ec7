"""What makes two transformations the same value."""

import functools
import pickle
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._expressions._keys import freeze, key_of


@gf.transformation
def holder(value: Any = None) -> Any:
    """A stage that only holds an argument."""

    def update(updates: Any, state: gf.EmptyState, params: Any = None) -> Any:
        return updates, state

    return gf.init_empty_state, update


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", 1),
        (np.float32(0.5), 0.5),
        (np.float32(0.5), np.float64(0.5)),
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), np.zeros(2, np.float32)),
        ((1, 2), (1, (2,))),
        ({"a": 1}, {"a": 1.0}),
        (jnp.float32, jnp.bfloat16),
        (None, False),
    ],
)
def test_different_arguments_make_different_values(a: Any, b: Any) -> None:
    assert holder(a) != holder(b)
    assert holder(a) == holder(a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 2], (1, 2)),
        (float("nan"), float("nan")),
        (np.arange(3), np.arange(3)),
        (jnp.float32, np.float32),
        (np.dtype("bfloat16"), jnp.bfloat16),
        ({"a": [1]}, {"a": (1,)}),
        (functools.partial(max, 3), functools.partial(max, 3)),
        ({1, 2}, frozenset({2, 1})),
    ],
)
def test_arguments_that_say_the_same_make_one_value(a: Any, b: Any) -> None:
    assert holder(a) == holder(b)
    assert hash(holder(a)) == hash(holder(b))
    assert repr(holder(a)) == repr(holder(b))


def test_dtype_arguments_may_be_strings() -> None:
    assert gf.adam(0.1, mu_dtype="bfloat16") == gf.adam(0.1, mu_dtype=jnp.bfloat16)
    assert "mu_dtype='bfloat16'" in repr(gf.adam(0.1, mu_dtype=jnp.bfloat16))
    with pytest.raises(TypeError):
        gf.adam(0.1, mu_dtype="no such type")


def test_arguments_are_frozen_when_captured() -> None:
    numbers, array, table = [1, 2], np.zeros(2), {"a": [1]}
    values = holder(numbers), holder(array), holder(table)
    keys = [hash(v) for v in values]
    without_key = holder(array)
    numbers.append(3)
    array[0] = 7
    table["a"].append(2)
    assert [hash(v) for v in values] == keys
    assert values[0] == holder([1, 2])
    assert values[1] == holder(np.zeros(2)) == without_key
    assert values[2] == holder({"a": [1]})
    with pytest.raises(ValueError, match="read-only"):
        freeze(array)[0] = 1.0


def test_a_jax_array_is_compared_by_identity() -> None:
    a = jnp.float32(0.5)
    assert holder(a) == holder(a)
    assert holder(a) != holder(jnp.float32(0.5))
    assert pickle.loads(pickle.dumps(holder(a))) != holder(a)
    assert repr(holder(a)) == "holder(value=Array(0.5, float32))"
    assert repr(holder(jnp.zeros((2, 3)))) == "holder(value=Array(float32[2,3]))"


def test_a_tracer_is_compared_by_identity_and_prints() -> None:
    @jax.jit
    def inside(x: jax.Array) -> jax.Array:
        assert holder(x) == holder(x)
        assert holder(x) != holder(x + 1)
        assert repr(holder(x)) == "holder(value=Tracer(float32[]))"
        return x

    inside(jnp.float32(0.5))


def test_unhashable_objects_equal_only_themselves() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

    a, b = Unhashable(), Unhashable()
    assert key_of(a) == key_of(a)
    assert key_of(a) != key_of(b)


def test_a_users_factory_pickles_by_reference_and_is_refused_as_data() -> None:
    tx = gf.chain(holder(0.5))
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert repr(cloudpickle.loads(cloudpickle.dumps(tx))) == repr(tx)
    with pytest.raises(TypeError, match="holder, which is not one of gradflow's own"):
        gf.to_config(tx)


def test_a_pair_assembled_by_hand_prints_composes_and_compares() -> None:
    def init(params: Any) -> Any:
        return ()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, state

    pair = gf.GradientTransformation(init, update)
    assert pair == gf.GradientTransformation(init, update)
    assert pair != gf.GradientTransformation(init, lambda u, s, p=None: (u, s))
    assert gf.chain(pair) == gf.chain(gf.GradientTransformation(init, update))
    assert "GradientTransformation(init=" in repr(pair)
    assert "<function" not in repr(gf.chain(pair))
    first, second = pair
    assert (first, second) == (init, update)
    assert gf.adam(0.1)._replace(update=update) != gf.adam(0.1)


def test_what_takes_extra_arguments_is_seen_by_its_class() -> None:
    # Training loops pass the loss to what this class names, and to no other.
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, state

    pair = gf.GradientTransformation(lambda params: (), update)
    assert not isinstance(pair, gf.GradientTransformationExtraArgs)
    chained = gf.MultiSteps(gf.chain(pair), 2)
    for tx in (gf.sgd(0.1), gf.chain(pair), chained, gf.with_extra_args_support(pair)):
        assert isinstance(tx, gf.GradientTransformationExtraArgs)
        tx.update(1.0, tx.init(1.0), 1.0, value=2.0)
    by_hand = gf.GradientTransformationExtraArgs(*pair)
    assert repr(by_hand).startswith("GradientTransformationExtraArgs(init=")
    assert type(jax.tree.map(lambda leaf: leaf, by_hand)) is gf.GradientTransformationExtraArgs


class Counting(gf.GradientTransformation):
    """A class with a method of its own, of a program that knows the plain class alone."""

    def first(self, params: Any) -> Any:
        return self.init(params)


@gf.transformation
def counting() -> gf.GradientTransformation:
    return Counting(*gf.scale_by_schedule(lambda count: 0.1))


def test_the_two_functions_of_a_transformation_make_a_pair_of_any_class() -> None:
    assert type(counting()) is Counting
    for tx in (gf.scale(0.1), gf.scale(jnp.float32(0.1))):
        pair = gf.GradientTransformation(*tx)
        assert pair == tx
        assert type(jax.tree.map(lambda leaf: leaf, pair)) is gf.GradientTransformation
        assert isinstance(gf.with_extra_args_support(pair), gf.GradientTransformationExtraArgs)


def test_attributes_are_set_but_not_under_names_of_arguments() -> None:
    tx: Any = gf.chain(gf.clip(1.0), gf.adam(0.1))
    tx.note = "first run"
    assert tx.note == "first run"
    assert not hasattr(gf.chain(gf.clip(1.0), gf.adam(0.1)), "note")
    with pytest.raises(AttributeError, match=r"^chain: 'chain.adam.learning_rate' cannot be set.*replace"):
        tx.learning_rate = 0.2
    with pytest.raises(AttributeError):
        tx.update = None
    accumulated: Any = gf.MultiSteps(tx, 2)
    with pytest.raises(AttributeError, match=r"^MultiSteps: the argument 'opt' cannot be set"):
        accumulated.opt = gf.adam(0.2)
    with pytest.raises(AttributeError, match=r"^MultiSteps: the method 'has_updated' cannot be set"):
        accumulated.has_updated = True


def test_functions_are_named_after_their_factory() -> None:
    tx = gf.chain(gf.adam(0.1))
    assert (tx.init.__name__, tx.update.__name__) == ("chain_init", "chain_update")
    assert "jit_chain_update" in jax.jit(tx.update).lower(1.0, tx.init(1.0)).as_text()


def test_printing() -> None:
    tx = gf.chain(gf.scale(2.0), gf.chain(gf.identity()), gf.named_chain(("a", gf.scale(-1))))
    assert repr(tx) == ("chain(scale(2.0), chain(identity()), named_chain(('a', scale(-1))))")
    assert repr(gf.adamw(0.1, b1=0.8)) == "adamw(0.1, b1=0.8)"
    assert gf.describe(gf.adamw(0.1)).replace("\n    ", " ").replace(",\n)", ")") == (
        "adamw( learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-08, eps_root=0.0, mu_dtype=None, "
        "weight_decay=0.0001, mask=None, nesterov=False)"
    )


def test_building_inspects_no_signature_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a signature was inspected while building")

    monkeypatch.setattr("inspect.signature", refuse)
    gf.chain(gf.adamw(0.1), gf.scale(0.5))


def test_jit_of_the_two_functions() -> None:
    tx = gf.adam(0.1)
    params = {"w": jnp.ones(2)}
    updates, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params))
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)


def test_own_factories_make_checked_arguments_and_name_themselves() -> None:
    assert holder.__name__ == "holder"
    assert holder.__doc__ == "A stage that only holds an argument."
    with pytest.raises(TypeError, match="holder: got an unexpected keyword argument 'valeu'"):
        holder(valeu=1)


def test_a_factory_must_return_a_pair() -> None:
    @gf.transformation
    def broken() -> Any:
        return 3

    with pytest.raises(TypeError, match="broken: a factory of transformations returns"):
        broken()


def test_varied_signatures_bind() -> None:
    @gf.transformation
    def flexible(a: Any, *rest: Any, b: Any = 2, **more: Any) -> Any:
        return holder((a, rest, b, tuple(more.items())))

    assert flexible(1, 2, 3, b=4, c=5) == flexible(1, 2, 3, b=4, c=5)
    assert flexible(1) != flexible(1, 2)
    assert pickle.loads(pickle.dumps(gf.chain(gf.scale(1.0)))) == gf.chain(gf.scale(1.0))
    assert "b=4" in repr(flexible(1, b=4))
