"""Trajectories of reference implementations, in float64, step by step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

FILES = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "oracles").glob("*.json"))
}

# What of the state and the parameters is compared with what of the file.
View = Callable[[Any, Any], Any]
PROTOCOLS: dict[str, dict[str, View]] = {
    "standard": {"trajectory": lambda state, params: params},
    "lookahead": {"trajectory": lambda state, params: params.fast},
    "averaged": {"trajectory": lambda state, params: params, "eval_trajectory": gf.eval_params},
    "schedule_free": {
        "trajectory": lambda state, params: params,
        "eval_trajectory": gf.schedule_free_eval_params,
    },
}
CASES = [n for n, d in FILES.items() if d["kind"] == "optimizer" and d["protocol"] in PROTOCOLS]


def call(spec: Any) -> Any:
    """The value of a call `{"name", "args", "kwargs"}`, nested freely."""
    if isinstance(spec, list):
        return [call(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "__tuple__" in spec:
        return tuple(call(item) for item in spec["__tuple__"])
    if "__pairs__" in spec:
        return {key: call(value) for key, value in spec["__pairs__"]}
    names = spec["name"] if isinstance(spec["name"], list) else [spec["name"]]
    factory = next(getattr(gf, name) for name in names if hasattr(gf, name))
    return factory(*call(spec.get("args", [])), **{k: call(v) for k, v in spec.get("kwargs", {}).items()})


def arrays(tree: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(np.asarray(values, np.float64)) for name, values in tree.items()}


@pytest.mark.parametrize("case", CASES)
def test_trajectory(case: str, record_property: Callable[[str, object], None]) -> None:
    data, worst = FILES[case], 0.0
    with jax.enable_x64(True):
        tx = call(data["gradflow"])
        params: Any = arrays(data["params0"])
        if data["protocol"] == "lookahead":
            params = gf.LookaheadParams.init_synced(params)
        state = tx.init(params)
        step = jax.jit(tx.update)
        for t, grads in enumerate(data["grads"]):
            updates, state = step(arrays(grads), state, params)
            params = gf.apply_updates(params, updates)
            for what, view in PROTOCOLS[data["protocol"]].items():
                actual = view(state, params)
                for name, values in data[what][t].items():
                    error = float(np.max(np.abs(np.asarray(actual[name]) - np.asarray(values))))
                    worst = max(worst, error)
                    assert error <= data["tolerance"], f"{what}, step {t}, leaf {name}: off by {error:.1e}"
    record_property("largest error", worst)


def test_there_are_oracles() -> None:
    assert len(CASES) >= 35
