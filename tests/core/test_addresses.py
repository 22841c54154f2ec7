"""Addresses, replacing parts, and plain data."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def example() -> Any:
    return gf.chain(gf.scale(2.0), gf.scale(3.0), gf.named_chain(("first", gf.adamw(0.1))))


def test_addresses_are_paths_of_names_with_equal_siblings_numbered() -> None:
    found = gf.addresses(example())
    assert found["chain.scale[0].step_size"] == 2.0
    assert found["chain.scale[1].step_size"] == 3.0
    assert found["chain.named_chain.first.adamw.b1"] == 0.9
    assert found["chain.named_chain.first.adamw"] == gf.adamw(0.1)
    assert "chain.scale.step_size" not in found


def test_replacing_arguments_and_parts() -> None:
    tx = gf.replace(
        example(), {"adamw.learning_rate": 0.2, "scale[1]": gf.identity(), "scale[0].step_size": 5}
    )
    assert tx == gf.chain(gf.scale(5), gf.identity(), gf.named_chain(("first", gf.adamw(0.2))))
    assert gf.replace(tx, {}) == tx
    assert gf.replace(gf.adam(0.1), {"adam": gf.scale(1.0)}) == gf.scale(1.0)


def test_replacing_inside_a_schedule() -> None:
    tx = gf.adam(gf.linear_schedule(0.1, 0.0, 10))
    assert gf.replace(tx, {"init_value": 0.2}) == gf.adam(gf.linear_schedule(0.2, 0.0, 10))
    joined = gf.join_schedules([gf.constant_schedule(0.1), gf.constant_schedule(0.2)], [5])
    changed = gf.replace(joined, {"constant_schedule[1].value": 0.3})
    assert changed == gf.join_schedules([gf.constant_schedule(0.1), gf.constant_schedule(0.3)], [5])


def test_replacing_with_a_tracer_gives_gradients() -> None:
    params = {"w": jnp.ones(2)}

    def moved(rate: Any) -> Any:
        tx = gf.replace(example(), {"learning_rate": rate})
        updates, _ = tx.update(params, tx.init(params), params)
        return jnp.sum(updates["w"])

    assert jax.grad(moved)(0.1) == pytest.approx(-2.0 * 1.0001, rel=1e-3)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("step_size", r"ambiguous.*chain.scale\[0\].step_size, chain.scale\[1\].step_size"),
        ("adamw.learning_rat", "Did you mean .*adamw.learning_rate"),
        ("scale.step_size", r"Did you mean .*chain.scale\[0\].step_size"),
        ("nothing at all", "no part has the address"),
        ("rate", "no part has the address 'rate'"),
    ],
)
def test_unknown_and_ambiguous_addresses(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gf.replace(example(), {address: 1.0})


def test_new_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="adamw: argument 'b1' must be a number in"):
        gf.replace(example(), {"b1": 1.0})
    with pytest.raises(ValueError, match="as a whole and in part"):
        gf.replace(example(), {"adamw": gf.scale(1.0), "adamw.b1": 0.5})
    with pytest.raises(ValueError, match="replaced already"):
        gf.replace(example(), {"adamw.b1": 0.5, "b1": 0.5})
    with pytest.raises(TypeError, match="made by a factory"):
        gf.addresses(3)


@pytest.mark.parametrize(
    "tx",
    [
        gf.adam(np.float32(0.1), mu_dtype=jnp.bfloat16),
        gf.adam(gf.linear_schedule(0.1, 0.0, 10)),
        gf.add_decayed_weights(0.1, {"a": True, "b": [True, False]}),
        gf.chain(),
        gf.named_chain(("a", gf.identity())),
        gf.adam(np.asarray(0.1)),
    ],
)
def test_configurations_are_json_and_come_back(tx: Any) -> None:
    data = json.loads(json.dumps(gf.to_config(tx)))
    assert gf.from_config(data) == tx


def test_arrays_in_configurations_keep_their_values() -> None:
    tx = gf.from_config(json.loads(json.dumps(gf.to_config(gf.adam(jnp.float32(0.25))))))
    rate = gf.addresses(tx)["adam.learning_rate"]
    assert isinstance(rate, jax.Array)
    assert rate == 0.25


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            gf.adam(lambda count: 0.1),
            TypeError,
            "adam.learning_rate' must be plain data; got the function",
        ),
        (gf.stateless(lambda u, p: u), TypeError, "stateless.f' must be plain data; got the function"),
        (3, TypeError, "must be a transformation or a schedule; got 3"),
    ],
)
def test_what_is_no_data_is_refused_by_address(value: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        gf.to_config(value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"factory": "adamv", "arguments": {}}, "no factory 'adamv'.*'adam'"),
        ({"arguments": {}}, "a dict with 'factory'"),
        ({"factory": "adam", "arguments": {"learning_rate": 0.1, "b1": -1.0}}, r"'b1' must be a number in"),
        (
            {"factory": "adam", "arguments": {"learning_rate": {"what": 1}}},
            "must be one that to_config writes",
        ),
        ("adam", "a dict with 'factory'"),
    ],
)
def test_wrong_configurations_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gf.from_config(config)


def test_full_addresses_are_unique_and_each_sets_its_number() -> None:
    sgd = gf.sgd(0.1)
    for tx in (
        gf.sam(sgd, gf.chain(gf.normalize(), gf.sgd(0.05))),
        gf.mechanize(gf.chain(sgd, gf.chain(gf.sgd(0.2)))),
        gf.partition({"a": gf.chain(sgd), "a.chain": sgd}, {"w": "a"}),
        gf.chain(gf.partition({"sgd": sgd, "x": gf.chain(sgd)}, {"w": "x"}), gf.scale(0.5), gf.scale(2.0)),
    ):
        rates = [a for a in gf.addresses(tx) if a.endswith((".learning_rate", ".step_size"))]
        changed = gf.replace(tx, {address: 0.001 * k for k, address in enumerate(rates)})
        found = gf.addresses(changed)
        assert [found[address] for address in rates] == [0.001 * k for k in range(len(rates))]
        state = gf.tunable(tx).init({"w": jnp.ones(2)})
        assert len([n for n in gf.hyperparams(state) if n.endswith(("rate", "size"))]) == len(rates)
        for name in gf.hyperparams(state):
            assert gf.hyperparams(gf.set_hyperparams(state, {name: 0.25}))[name] == 0.25
