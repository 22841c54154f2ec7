"""Values and gradients that PyTorch computed; `source` in each file says how."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses

FILES = sorted((Path(__file__).parents[1] / "oracles").glob("loss_*.json"))


def test_there_are_oracles() -> None:
    assert len(FILES) == 13


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_oracle(path: Path) -> None:
    oracle = json.loads(path.read_text())
    call, tolerance = oracle["gradflow"], oracle["tolerance"]
    loss = getattr(losses, call["name"])

    def array(name: str) -> Any:
        value = np.asarray(oracle["inputs"][name])
        return value.astype(np.int32) if call["name"].startswith("ctc") and name == "labels" else value

    def values(differentiated: dict[str, Any]) -> Any:
        inputs = {**fixed, **differentiated}
        if "smooth_labels" in call:
            inputs["labels"] = losses.smooth_labels(inputs["labels"], call["smooth_labels"])
        return loss(*(inputs[name] for name in oracle["order"]), **call.get("kwargs", {}))

    with jax.enable_x64(True):
        fixed = {name: jnp.asarray(array(name)) for name in oracle["order"]}
        differentiated = {name: fixed[name] for name in oracle["differentiate"]}

        @jax.jit
        def run(differentiated: dict[str, Any], cotangent: Any) -> Any:
            out, pull = jax.vjp(values, differentiated)
            return out, *pull(cotangent)

        out, gradients = run(differentiated, jnp.asarray(oracle["cotangent"]))
        np.testing.assert_allclose(out, oracle["values"], rtol=0, atol=tolerance)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, oracle["gradients"][name], rtol=0, atol=tolerance)
