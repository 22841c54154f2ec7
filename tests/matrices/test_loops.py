"""Equal leaves in one loop: the same numbers as one by one, and one decomposition in the program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.matrices import _loops

WEIGHTS = {f"w{i}": jax.random.normal(jax.random.key(i), (4, 3)) for i in range(5)} | {"v": jnp.ones((3, 3))}
MAKERS: dict[str, Callable[[], Any]] = {
    "muon": gf.scale_by_muon,
    "soap": lambda: gf.scale_by_soap(precondition_frequency=1),
    "kron": lambda: gf.scale_by_kron(0.9, 1.0),  # PRNG keys go through the loop, too
}


def _two_steps(make: Callable[[], Any], weights: Any) -> tuple[Any, str]:
    tx = make()
    state = tx.init(weights)
    step = jax.jit(lambda g, s: tx.update(g, s)).lower(weights, state).compile()
    for _ in range(2):
        updates, state = step(weights, state)
    return (updates, state), step.as_text()


@pytest.mark.parametrize("name", MAKERS)
def test_a_loop_gives_the_numbers_of_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looped, program = _two_steps(MAKERS[name], WEIGHTS)
    monkeypatch.setattr(_loops, "_FEWEST", 100)
    apart, other = _two_steps(MAKERS[name], WEIGHTS)
    for x, y in zip(jax.tree.leaves(looped), jax.tree.leaves(apart), strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)
    marks = {"muon": " dot(", "soap": "geqrf", "kron": "trsm"}
    assert 0 < 2 * program.count(marks[name]) < other.count(marks[name])


def test_what_is_missing_or_differs_stays_outside() -> None:
    weights = {**WEIGHTS, "w1": None, "w2": jnp.ones((3, 4))}
    tx = gf.scale_by_muon()
    u, _ = jax.jit(tx.update)(weights, tx.init(weights))
    alone, _ = tx.update({"w2": weights["w2"]}, tx.init({"w2": weights["w2"]}))
    assert u["w1"] is None
    np.testing.assert_allclose(u["w2"], alone["w2"], rtol=1e-5)
