"""Law 9: a state is saved by name and found again, whatever stage keeps it and whatever is put around it."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from specs import build, over_all
from trees import filled, small

import gradflow as gf
from laws.support import avals

RATED = ["adamw", "chain", "partition", "muon", "lookahead", "schedule_free", "MultiSteps", "polyak_sgd"]


def numbered(state: Any) -> Any:
    """A state of the same form in which no two arrays are equal."""
    leaves, structure = jax.tree.flatten(state)
    numbers = [(np.arange(x.size).reshape(x.shape) * 3 + i) % 97 for i, x in enumerate(leaves)]
    return jax.tree.unflatten(
        structure, [jnp.asarray(n.astype(x.dtype)) for n, x in zip(numbers, leaves, strict=True)]
    )


def assert_same(a: Any, b: Any) -> None:
    assert avals(a) == avals(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@over_all("state by name")
def test_a_state_survives_a_file(case: str) -> None:
    tx, params = build(case), small(0)
    state = numbered(tx.init(params))
    file = io.BytesIO()
    np.savez(file, **gf.state_dict(tx, state))
    file.seek(0)
    loaded, report = gf.load_state_dict(tx, params, np.load(file))
    assert_same(loaded, state)
    assert (report.new, report.dropped) == ((), ())
    assert all(name == old for name, old in report.kept.items())
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((loaded, state, params)) if x.size]
    assert len(set(buffers)) == len(buffers)


@over_all("state by name, inside another")
def test_what_is_put_around_a_stage_loses_nothing(case: str) -> None:
    tx, params = build(case), small(0)
    state = numbered(tx.init(params))
    d = gf.state_dict(tx, state)
    for outer in (
        gf.chain(gf.clip(1.0), tx),
        gf.apply_if_finite(gf.named_chain(("first", gf.centralize()), ("then", tx)), 2),
        gf.partition({"all": tx}, lambda params: jax.tree.map(lambda _: "all", params)),
    ):
        around, report = gf.load_state_dict(outer, params, d)
        assert report.dropped == ()
        back, report = gf.load_state_dict(tx, params, gf.state_dict(outer, around))
        assert report.new == ()
        assert_same(back, state)


@over_all("state by name, awkward trees")
def test_awkward_trees_have_names(case: str) -> None:
    tx, params = build(case), filled(0)
    state = numbered(tx.init(params))
    d = gf.state_dict(tx, state)
    assert len(d) == 1 + len(jax.tree.leaves(state))
    assert_same(gf.load_state_dict(tx, params, d)[0], state)


@over_all("names of a schedule", RATED)
def test_names_do_not_depend_on_how_the_rate_is_given(case: str) -> None:
    tx, params = build(case), small(0)
    rates = [a for a in gf.addresses(tx) if a.endswith(".learning_rate")]
    scheduled = gf.replace(tx, dict.fromkeys(rates, gf.linear_schedule(0.1, 0.0, 10)))
    names = [gf.state_dict(each, each.init(params)) for each in (tx, scheduled)]
    assert list(names[0]) == list(names[1])
