from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from gradflow import compat, tree

PARAMS = {"a": jnp.ones((2, 3)), "b": [jnp.ones(4)]}
SPECS = {"a": "rows", "b": ["columns"]}


class Adam(NamedTuple):
    count: object
    mu: object
    nu: object


class Masked(NamedTuple):
    """A parameter that is not there."""


def init(params):
    """Parameters several times, whole, inside containers, with other shapes."""
    return {
        "adam": Adam(jnp.zeros((), jnp.int32), tree.zeros_like(params), tree.zeros_like(params)),
        "memory": (jax.tree.map(lambda p: jnp.zeros((5, *p.shape)), params), None),
        "key": jax.random.key(0),
        "norm": tree.norm(params),
        "size": [params],
    }


def test_f_gets_what_is_shaped_like_the_parameters():
    state = init(PARAMS)
    result = tree.map_params(init, lambda x: x.shape, state)
    shapes = {"a": (2, 3), "b": [(4,)]}
    assert result["adam"].mu == result["adam"].nu == result["size"][0] == shapes
    assert result["memory"] == ({"a": (5, 2, 3), "b": [(5, 4)]}, None)
    assert result["adam"].count is state["adam"].count
    assert result["key"] is state["key"]


def test_rest_and_the_other_leaves():
    result = tree.map_params(
        init,
        lambda x, spec, twin: (spec, twin.size),
        init(PARAMS),
        SPECS,
        PARAMS,
        transform_non_params=lambda x: "other",
    )
    pairs = {"a": ("rows", 6), "b": [("columns", 4)]}
    assert result["adam"] == Adam("other", pairs, pairs)
    assert result["memory"][0] == pairs
    assert result["key"] == result["norm"] == "other"


def test_an_object_with_an_init_and_an_abstract_state_will_do():
    class Transformation(NamedTuple):
        init: object
        update: object

    state = jax.eval_shape(init, PARAMS)
    result = tree.map_params(Transformation(init, None), lambda x, s: s, state, SPECS)
    assert result["adam"].mu == SPECS


def hiding(params):
    """A wrapper that hides a parameter, by a rule."""
    return tree.map_with_path(lambda path, p: Masked() if path == "a" else p * 0, params)


def hiding_by_tree(params):
    """The same by a given tree, which needs the parameters' structure."""
    mask = {"a": False, "b": [True]}
    return {"inner": jax.tree.map(lambda keep, p: p if keep else Masked(), mask, params)}


def test_absent_parameters_stay_absent():
    result = tree.map_params(hiding, lambda x, s: s, hiding(PARAMS), SPECS)
    assert result == {"a": Masked(), "b": ["columns"]}
    none = {"a": None, "b": [jnp.ones(4)]}
    assert tree.map_params(lambda p: p, lambda x, s: s, none, SPECS) == {"a": None, "b": ["columns"]}
    seen = tree.map_params(
        hiding,
        lambda x, s: type(x).__name__,
        hiding(PARAMS),
        SPECS,
        is_leaf=lambda x: isinstance(x, Masked),
    )
    assert seen["a"] == "Masked"


def test_rest_tells_the_structure_where_init_needs_it():
    state = hiding_by_tree(PARAMS)
    result = tree.map_params(hiding_by_tree, lambda x, s, p: (s, p.size), state, SPECS, PARAMS)
    assert result == {"inner": {"a": Masked(), "b": [("columns", 4)]}}
    with pytest.raises(TypeError, match="the init of argument 'initable' must accept a placeholder"):
        tree.map_params(hiding_by_tree, lambda x: x, state)


def test_an_init_whose_state_holds_no_arrays():
    def odd(params):
        return {"name": "odd", "p": params}

    assert tree.map_params(odd, jnp.shape, odd({"a": jnp.ones(2)})) == {"name": "odd", "p": {"a": (2,)}}


def test_a_state_of_another_structure_is_refused():
    with pytest.raises(ValueError, match=r"argument 'state' must have a leaf at '1'; got nothing"):
        tree.map_params(lambda p: (p, p), lambda x: x, (PARAMS,))
    with pytest.raises(ValueError, match=r"argument 'state' must have an Adam at the root; got a dict"):
        tree.map_params(lambda p: Adam(0, p, p), lambda x: x, {"mu": PARAMS})
    with pytest.raises(ValueError, match=r"argument 'rest\[0\]' must have a list at 'b'; got a leaf"):
        tree.map_params(init, lambda x, s: x, init(PARAMS), {"a": "rows", "b": "columns"})


def test_agrees_with_a_second_witness():
    optax = pytest.importorskip("optax")
    for tx in (
        optax.chain(optax.clip(1.0), optax.adamw(1e-3)),
        optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9),
        optax.masked(optax.adam(1e-3), {"a": True, "b": [True]}),
    ):
        state = tx.init(PARAMS)
        ours, theirs = (
            f(tx, lambda x, s: s, state, SPECS, transform_non_params=lambda x: 0)
            for f in (tree.map_params, optax.tree.map_params)
        )
        assert ours == theirs


TREE = {"w": True, "b": False}
WRAPPED = {
    "masked": (lambda o: o.masked(o.trace(0.9), TREE), 1),
    "partition": (lambda o: o.partition({"x": o.adam(0.1), "y": o.trace(0.9)}, {"w": "x", "b": "y"}), 3),
    "adamw": (lambda o: o.adamw(0.1, mask=TREE), 4),
    "freeze": (lambda o: o.chain(o.transforms.freeze(TREE), o.trace(0.9)), 2),
    "selective": (lambda o: o.transforms.selective_transform(o.adam(0.1), freeze_mask=TREE), 2),
    "inject": (lambda o: o.inject_hyperparams(o.adamw)(0.1, mask=TREE), 4),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_masks_and_labels_that_are_trees(name):
    """Without `rest`, a placeholder stands for all parameters, and every mask passes it."""
    make, count = WRAPPED[name]
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    for library in (compat, pytest.importorskip("optax")):
        tx = make(library)
        state = tx.init(params)
        seen = []
        library.tree_utils.tree_map_params(tx, lambda x, seen=seen: seen.append(x.shape), state)
        assert len(seen) == count
        assert set(seen) <= {(2, 3), (3,)}


def test_lookahead_has_the_state_of_its_fast_parameters():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = compat.lookahead(compat.adam(0.1), 5, 0.5)
    state = tx.init(compat.LookaheadParams.init_synced(params))
    specs = {"w": "rows", "b": "columns"}
    result = tree.map_params(tx, lambda x, spec: spec, state, specs, transform_non_params=lambda x: "all")
    assert result.fast_state[0].mu == result.fast_state[0].nu == specs
    assert result.fast_state[0].count == result.steps_since_sync == "all"
