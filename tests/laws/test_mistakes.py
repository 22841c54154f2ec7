"""Law 8: a wrong tree, a wrong state or a wrong order of arguments is named, and nothing is broadcast."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from specs import REPRESENTATIVES, build, leaf_policy, over_all
from trees import small

import gradflow as gf
from laws.support import abstract_update, extras

WRONG_GRADIENTS = {
    "a leaf is missing": lambda g: {"kernel": g["kernel"]},
    "a leaf too many": lambda g: {**g, "extra": g["bias"]},
    "a row for a vector": lambda g: {**g, "bias": g["bias"][None, :]},
    "a scalar for a vector": lambda g: {**g, "bias": g["bias"][0]},
    "a batch of gradients": lambda g: jax.tree.map(lambda x: jnp.stack([x, x]), g),
    "another container": lambda g: list(g.values()),
}


@over_all("wrong gradients", REPRESENTATIVES)
@pytest.mark.parametrize("mistake", list(WRONG_GRADIENTS))
def test_wrong_gradients_are_refused_by_path(case: str, mistake: str) -> None:
    _is_refused_by_path(case, mistake)


@over_all("wrong gradients")
def test_every_stage_checks_its_gradients(case: str) -> None:
    _is_refused_by_path(case, "a row for a vector")


def _is_refused_by_path(case: str, mistake: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    state = tx.init(params)
    with pytest.raises((ValueError, TypeError)) as caught:
        tx.update(WRONG_GRADIENTS[mistake](grads), state, params, **extras(tx, params, grads))
    message = str(caught.value)
    assert any(name in message for name in ("bias", "kernel", "extra", "a list")), message
    assert "Array(" not in message
    assert len(message) < 600


@over_all("wrong states")
def test_the_state_of_another_transformation_is_refused(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    keeps_nothing = isinstance(tx.init(params), gf.EmptyState)

    for wrong in ({"not": "a state"}, params, None, 3, (1, 2, 3, 4, 5, 6, 7)):
        if keeps_nothing:
            _, same = tx.update(grads, wrong, params, **extras(tx, params, grads))
            assert jax.tree.structure(same) == jax.tree.structure(wrong)
            continue
        with pytest.raises((ValueError, TypeError)) as caught:
            tx.update(grads, wrong, params, **extras(tx, params, grads))
        message = str(caught.value)
        assert "state" in message
        assert "Array(" not in message


@over_all("swapped arguments")
def test_swapped_arguments_are_refused(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    state = tx.init(params)
    with pytest.raises((ValueError, TypeError)):
        tx.update(grads, params, state, **extras(tx, params, grads))
    if jax.tree.leaves(state):
        with pytest.raises((ValueError, TypeError)):
            tx.update(state, grads, params, **extras(tx, params, grads))


@over_all("state of other parameters")
def test_the_state_of_other_parameters_is_refused(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    other = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((5,))}
    state = jax.eval_shape(tx.init, other)
    if all(leaf.ndim == 0 for leaf in jax.tree.leaves(state)) or leaf_policy(case) == "any":
        return  # nothing in the state could tell
    if all(leaf.shape not in ((2, 2), (5,)) for leaf in jax.tree.leaves(state)):
        return
    with pytest.raises(ValueError, match=r"bias|kernel"):
        abstract_update(tx, grads, state, params)


@over_all("stray extra arguments")
def test_extra_arguments_that_nobody_takes_are_tolerated(case: str) -> None:
    tx = build(case)
    params: Any = small(0)
    grads = small(1)
    updates, _ = abstract_update(tx, grads, tx.init(params), params, batch_statistics=None, epoch=3)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
