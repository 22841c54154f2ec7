from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow import compat, tree


class Adam(NamedTuple):
    count: object
    mu: object
    nu: object


class Trace(NamedTuple):
    trace: object


class Inner(NamedTuple):
    count: object
    inner_state: object


STATE = (
    Adam(count=1, mu={"w": 2.0, "mu": 3.0}, nu={"w": 4.0}),
    [Trace(trace={"w": 5.0}), None],
    {"lr": 0.1, 7: "seven"},
)
STATE = (STATE[0], STATE[1], {"lr": 0.1, "deep": Inner(count=8, inner_state=(Trace(None),))})


def test_get_by_field_key_and_tuple_name():
    assert tree.get(STATE, "nu") == {"w": 4.0}
    assert tree.get(STATE, "lr") == 0.1
    assert tree.get(STATE, "Adam") is STATE[0]
    assert tree.get(STATE, "Inner").count == 8
    assert tree.get({3: {"a": 1}}, 3) == {"a": 1}


def test_get_of_an_unknown_name_is_the_default():
    assert tree.get(STATE, "nothing") is None
    assert tree.get(STATE, "nothing", default=5) == 5
    assert tree.get(STATE, "nu", 5, lambda path, value: False) == 5
    assert tree.get((1, 2), 0) is None  # a position is not a name


def test_an_ambiguous_name_lists_where_it_is():
    with pytest.raises(KeyError, match=r"'count' is ambiguous.*'0/Adam.count'.*Inner.count"):
        tree.get(STATE, "count")


def test_filtering_sees_paths_and_values():
    def inside(path, value):
        return any(isinstance(k, tree.NamedTupleKey) and k.tuple_name == "Inner" for k in path)

    assert tree.get(STATE, "count", filtering=inside) == 8
    assert tree.get(STATE, "w", filtering=lambda path, value: value == 4.0) == 4.0
    new = tree.set(STATE, inside, count=9)
    assert (new[0].count, new[2]["deep"].count) == (1, 9)


def test_get_all_with_path_begins_with_the_outermost():
    found = tree.get_all_with_path(STATE, "w")
    assert [value for _, value in found] == [2.0, 4.0, 5.0]
    assert found[0][0] == (
        jax.tree_util.SequenceKey(0),
        tree.NamedTupleKey("Adam", "mu"),
        jax.tree_util.DictKey("w"),
    )
    assert str(found[0][0][1]) == "Adam.mu"
    # A value may lie inside another, and comes after those that do not.
    nested = ({"n": Inner(1, {"n": 2})}, {"n": 3})
    assert [value for _, value in tree.get_all_with_path(nested, "n")] == [nested[0]["n"], 3, 2]
    assert [value for _, value in tree.get_all_with_path(STATE, "mu")] == [STATE[0].mu, 3.0]
    assert tree.get_all_with_path(Trace(1), "Trace") == [((), Trace(1))]
    assert tree.get_all_with_path(STATE, "nothing") == []


def test_arrays_in_a_transformation_have_no_names_of_its_fields():
    tx = gf.sgd(jnp.float32(0.1), jnp.float32(0.9))
    assert tree.get_all_with_path({"tx": tx}, "init") == []
    assert tree.get({"tx": tx, "init": 3}, "init") == 3


def test_set_replaces_everywhere_in_a_copy():
    new = tree.set(STATE, w=0.0, lr=0.2)
    assert [value for _, value in tree.get_all_with_path(new, "w")] == [0.0, 0.0, 0.0]
    assert new[2]["lr"] == 0.2
    assert STATE[2]["lr"] == 0.1
    assert jax.tree.structure(new) == jax.tree.structure(STATE)
    assert tree.set(STATE, Adam=None)[0] is None
    assert tree.set(STATE, mu=1)[0] == Adam(1, 1, {"w": 4.0})
    assert tree.set(STATE, trace=jnp.ones(2))[2]["deep"].inner_state[0].trace.shape == (2,)


def test_set_of_an_unknown_name_says_what_there_is():
    with pytest.raises(KeyError, match=r"no value is named 'counts'.*Did you mean 'count'"):
        tree.set(STATE, counts=1)
    with pytest.raises(KeyError, match=r"no value is named 'zzz'.*There are 'Adam', .*'lr'"):
        tree.set(STATE, zzz=1)
    with pytest.raises(KeyError, match="filtering excludes every value named 'lr'"):
        tree.set(STATE, lambda path, value: False, lr=1)


def test_agrees_with_a_second_witness():
    optax = pytest.importorskip("optax")
    params = {"a": jnp.ones(2), "count": jnp.ones(3)}
    rate = optax.inject_hyperparams(optax.adamw)(1e-3)
    two = optax.partition({"x": rate, "y": optax.sgd(0.1, 0.9)}, {"a": "x", "count": "y"})
    steps = optax.MultiSteps(rate, 2).gradient_transformation()
    state = optax.chain(steps, two, optax.adam(0.1)).init(params)
    names = ["count", "mu", "learning_rate", "hyperparams", "ScaleByAdamState", "inner_state", "nothing"]
    for name in names:
        ours = tree.get_all_with_path(state, name)
        theirs = optax.tree.get_all_with_path(state, name)
        paths = [[jax.tree_util.keystr(p) for p, _ in found] for found in (ours, theirs)]
        assert paths[0] == paths[1], name
    state = rate.init(params)
    ours = tree.set(state, learning_rate=0.5)
    theirs = optax.tree.set(state, learning_rate=0.5)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: o.lbfgs(),
        lambda o: o.adam(0.1),
        lambda o: o.adamw(o.constant_schedule(0.1)),
        lambda o: o.chain(o.clip_by_global_norm(1.0), o.nadam(0.1)),
        lambda o: o.sgd(o.constant_schedule(0.1)),
    ],
)
def test_the_count_of_a_rule_comes_before_that_of_its_rate(make):
    tx = make(compat)
    state = tx.init({"w": jnp.ones(2)})
    counts = tree.get_all_with_path(state, "count")
    assert tree.get(state, "count") is counts[0][1]
    assert all(value == 7 for _, value in tree.get_all_with_path(tree.set(state, count=7), "count"))


def test_two_rules_of_their_own_stay_ambiguous():
    state = compat.chain(compat.adam(0.1), compat.scale_by_adam()).init(jnp.ones(2))
    with pytest.raises(KeyError, match=r"ambiguous.*0/0/ScaleByAdamState.count.*1/ScaleByAdamState"):
        tree.get(state, "count")
