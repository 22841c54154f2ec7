"""Pickles and configurations that version 0.1.0 wrote are read after files have moved."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

GOLDEN = Path(__file__).parents[1] / "golden"
PICKLES = json.loads((GOLDEN / "pickles.json").read_text())
CONFIGS = json.loads((GOLDEN / "configs.json").read_text())
PARAMS = {"w": jnp.arange(6.0, dtype=jnp.float32).reshape(3, 2), "b": jnp.ones(2, jnp.float32)}
VALUES: dict[str, Any] = {
    "adamw": gf.adamw(1e-3, weight_decay=0.1),
    "chain": gf.chain(
        gf.clip_by_global_norm(1.0), gf.adamw(gf.warmup_cosine_decay_schedule(0.0, 0.1, 10, 200))
    ),
    "partition": gf.partition({"w": gf.adam(1e-2), "**": gf.sgd(gf.linear_schedule(0.1, 0.0, 10))}),
    "masked": gf.masked(gf.adam(0.1), ~gf.paths("b")),
    "MultiSteps": gf.MultiSteps(gf.adam(1e-3), 2),
    "named_chain": gf.named_chain(("a", gf.scale(2.0)), ("b", gf.trace(0.9))),
    "lookahead": gf.lookahead(gf.sgd(0.1), 5, 0.5),
    "tunable": gf.tunable(gf.adamw(1e-3)),
    "with_metrics": gf.with_metrics(gf.adam(1e-3)),
    "lbfgs": gf.lbfgs(),
    "adamw_dtype": gf.adamw(1e-3, mu_dtype="bfloat16"),
    "schedule": gf.join_schedules([gf.constant_schedule(0.1), gf.linear_schedule(0.1, 0.0, 10)], [5]),
    "selector": gf.paths("**/bias") | gf.ndim(at_least=2),
    "update_of_adam": gf.adam(1e-3).update,
}


def load(name: str) -> Any:
    return pickle.loads(base64.b85decode(PICKLES[name]))


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    assert load(f"values/{name}") == VALUES[name]
    assert pickle.loads(pickle.dumps(VALUES[name])) == VALUES[name]


@pytest.mark.parametrize("name", [name.removeprefix("states/") for name in PICKLES if "states/" in name])
def test_states(name: str) -> None:
    from gradflow.packed import pack

    packed_params = pack(PARAMS)
    if name == "packed_params":
        expected: Any = packed_params
    elif name == "packed":
        expected = gf.adam(1e-3).init(packed_params)
    else:
        params: Any = gf.LookaheadParams.init_synced(PARAMS) if name == "lookahead" else PARAMS
        expected = VALUES[name].init(params)
    loaded = load(f"states/{name}")
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str) -> None:
    assert gf.from_config(CONFIGS[name]) == VALUES[name]


def test_a_pickle_of_a_factory_that_is_not_there_says_which() -> None:
    former = base64.b85decode(PICKLES["values/adamw"]).replace(b"\x05adamw", b"\x05adamq")
    with pytest.raises(ValueError, match="no factory 'adamq'"):
        pickle.loads(former)
    now = pickle.dumps(gf.adamw(1e-3)).replace(b"\x05adamw", b"\x05adamq")
    with pytest.raises(AttributeError, match="adamq"):
        pickle.loads(now)


def test_former_modules_have_no_other_names() -> None:
    from gradflow import _base  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match=r"module 'gradflow\._base' has no attribute 'transformation'"):
        _ = _base.transformation
