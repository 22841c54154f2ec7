"""Laws 9 and 10: a transformation is a value, and its state survives being saved."""

import copy
import json
import pickle
import sys
from typing import Any

import cloudpickle
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from specs import CASES, build, over_all
from trees import small

import gradflow as gf
from gradflow._expressions._addresses import _walk
from gradflow._expressions._registry import OWN_FACTORIES
from laws.support import assert_close, avals, extras, run_interpreted


def has_functions(value: Any) -> bool:
    """Whether an argument of the expression is a function or an array, which only equals itself."""
    return any(
        (callable(v) and not isinstance(v, tuple)) or isinstance(v, jax.Array)
        for v in gf.addresses(value).values()
    )


PLAIN = [name for name in CASES if not has_functions(build(name))]


@over_all("rebuilt is equal", PLAIN)
def test_built_again_it_is_equal_and_hashes_alike(case: str) -> None:
    a, b = build(case), build(case)
    assert a == b
    assert hash(a) == hash(b)
    assert a.update == b.update
    assert hash(a.init) == hash(b.init)
    assert a.init != b.update
    assert len({a, b}) == 1


def test_different_cases_differ() -> None:
    built = [build(name) for name in PLAIN]
    texts = {repr(tx) for tx in built}
    assert len(set(built)) == len(texts)


@over_all("copies", PLAIN)
def test_copies_and_pickles_are_equal(case: str) -> None:
    tx = build(case)
    for twin in (copy.copy(tx), copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert twin == tx
    assert cloudpickle.loads(cloudpickle.dumps(tx)) == tx
    assert pickle.loads(pickle.dumps(tx.update)) == tx.update


@over_all("config", PLAIN)
def test_plain_data_and_back(case: str) -> None:
    tx = build(case)
    assert gf.from_config(json.loads(json.dumps(gf.to_config(tx)))) == tx


@over_all("repr")
def test_prints_as_its_call(case: str) -> None:
    text = repr(build(case))
    assert "<function" not in text
    assert "object at 0x" not in text
    assert all(len(line) <= 88 for line in text.splitlines())
    assert text.endswith(")")


@over_all("repr evaluates", PLAIN)
def test_what_it_prints_makes_it_again(case: str) -> None:
    tx = build(case)
    names = {name: factory.function for name, factory in OWN_FACTORIES.items()}
    assert eval(repr(tx), {**names, "array": np.array}) == tx


def test_a_deep_chain_costs_linear_work() -> None:
    def deep(depth: int) -> Any:
        tx = gf.scale(0.5)
        for _ in range(depth):
            tx = gf.chain(tx, gf.scale(0.5))
        return tx

    def calls(depth: int) -> int:
        a, b = deep(depth), pickle.loads(pickle.dumps(deep(depth)))
        count = 0

        def profile(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(profile)
        try:
            equal = a == b
            hash(a), repr(a)
        finally:
            sys.setprofile(None)
        assert equal
        return count

    # Half of them lay the text out in lines, each a level deeper.
    assert calls(50) < 50 * 100
    assert calls(50) < 2.2 * calls(25)


@over_all("jit cache", PLAIN)
def test_a_rebuilt_transformation_does_not_retrace(case: str) -> None:
    traces = 0

    def step(tx: Any, grads: Any, state: Any, params: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.update(grads, state, params, **extras(tx, params, grads))

    compiled = jax.jit(step, static_argnums=0)
    params, grads = small(0), small(1)
    state = build(case).init(params)
    compiled.trace(build(case), grads, state, params)
    compiled.trace(build(case), grads, state, params)
    assert traces == 1


@over_all("state serialises")
def test_state_survives_pickle_and_flax(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    _, params, state = run_interpreted(tx, params, [grads])
    restored = pickle.loads(pickle.dumps(jax.device_get(state)))
    data = flax.serialization.to_bytes(state)
    other = flax.serialization.from_bytes(tx.init(params), data)
    expected = run_interpreted(tx, params, [grads], state)
    for again in (restored, other):
        assert_close(run_interpreted(tx, params, [grads], jax.tree.map(jnp.asarray, again)), expected)


RATED = [n for n in CASES if any(a.endswith(".learning_rate") for a in gf.addresses(build(n)))]


@over_all("state of a schedule", RATED)
def test_the_state_does_not_depend_on_how_the_rate_is_given(case: str) -> None:
    tx = build(case)
    rates = [a for a in gf.addresses(tx) if a.endswith(".learning_rate")]
    params = small(0)
    plain = avals(tx.init(params))
    scheduled = gf.replace(tx, dict.fromkeys(rates, lambda count: jnp.float32(0.1)))
    assert avals(scheduled.init(params)) == plain


@over_all("addresses are unique")
def test_every_number_has_an_address_of_its_own(case: str) -> None:
    tx = build(case)
    parts = list(_walk(tx.expression, "whole", ()))
    assert len({part.address for part in parts}) == len(parts)
    # What a state calls a number is the end of one address, and no other number's name.
    names = list(jax.eval_shape(gf.tunable(tx).init, small(0)).hyperparams)
    for name in names:
        assert sum(other == name or other.endswith(f".{name}") for other in names) == 1
        full = [address for address in gf.addresses(tx) if address == name or address.endswith(f".{name}")]
        assert len(full) == 1
