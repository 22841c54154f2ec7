"""Equal leaves in one loop: the same numbers as one by one, and one decomposition in the program."""

import re
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
    "scion": gf.scale_by_scion,
    "neuron_norm": gf.scale_by_neuron_norm,
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
    marks = {"muon": " dot(", "soap": "geqrf", "kron": "trsm", "scion": " dot(", "neuron_norm": " sqrt("}
    assert 0 < 2 * program.count(marks[name]) < other.count(marks[name])


@pytest.mark.parametrize("make", [MAKERS["soap"], lambda: gf.scale_by_splus(precondition_frequency=1)])
def test_sides_of_one_length_are_one_loop_and_a_step_without_refresh_copies_nothing_for_it(
    make: Callable[[], Any],
) -> None:
    shapes = [(4, 3), (3, 4), (4, 4), (3, 3), (4, 3), (3, 4)]
    weights = {f"w{i}": jnp.ones(shape) for i, shape in enumerate(shapes)}
    tx = make()
    step = jax.jit(tx.update, donate_argnums=1).lower(weights, tx.init(weights))
    program = step.compile().as_text()
    assert program.count('"lapack_ssyevd_ffi"') == 2
    (skipped,) = re.findall(r"branch_computations=\{(%\S+),", program[program.index("\nENTRY") :])
    body = program[program.index(f"{skipped} (") :].split("\n\n")[0]
    assert not re.search(r" (copy|fusion|transpose)\(", body)


def test_what_is_missing_or_differs_stays_outside() -> None:
    weights = {**WEIGHTS, "w1": None, "w2": jnp.ones((3, 4))}
    tx = gf.scale_by_muon()
    u, _ = jax.jit(tx.update)(weights, tx.init(weights))
    alone, _ = tx.update({"w2": weights["w2"]}, tx.init({"w2": weights["w2"]}))
    assert u["w1"] is None
    np.testing.assert_allclose(u["w2"], alone["w2"], rtol=1e-5)
