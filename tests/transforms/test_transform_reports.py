"""What the blocks report."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def heard(tx: Any, updates: Any) -> dict[str, float]:
    with gf.collecting() as collector:
        tx.update(updates, tx.init(updates), updates)
    return {name: float(value) for name, value in collector.values.items()}


G = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray([[0.0, 12.0]]), "c": None, "d": jnp.zeros((0, 2))}


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (gf.clip_by_global_norm(6.5), {"norm": 13.0, "factor": 0.5}),
        (gf.clip_by_global_norm(26.0), {"norm": 13.0, "factor": 1.0}),
        (gf.clip_by_global_norm(np.float32(6.5)), {"norm": 13.0, "factor": 0.5}),
        (gf.normalize_by_update_norm(), {"norm": 13.0}),
        (gf.clip(3.5), {"fraction": 0.5}),
        (gf.zero_nans(), {"count": 0.0}),
        (gf.add_noise(4.0, 0.5, 0), {"deviation": 2.0}),
    ],
    ids=repr,
)
def test_reports(tx: Any, expected: dict[str, float]) -> None:
    assert heard(tx, G) == pytest.approx(expected)


def test_reports_of_extremes() -> None:
    values = heard(gf.clip_by_global_norm(1.0), jnp.full(2, 1e37))
    assert values == pytest.approx({"norm": np.sqrt(2) * 1e37, "factor": 1e-37 / np.sqrt(2)})
    assert heard(gf.zero_nans(), jnp.asarray([jnp.nan, 1.0, jnp.nan])) == {"count": 2.0}
    assert heard(gf.clip(1.0), {}) == {"fraction": 0.0}


def test_nobody_listening_they_cost_nothing() -> None:
    tx = gf.clip(1.0)
    quiet = jax.make_jaxpr(lambda g: tx.update(g, tx.init(g)))(G["a"])
    names = [each.primitive.name for each in quiet.eqns]
    assert len(names) - names.count("in_one_array") == 1  # which computes nothing
