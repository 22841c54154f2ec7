"""A step of a donated state needs no scratch as large as the model, and copies nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_size import copied_arrays

import gradflow as gf

LEAVES, SIZE = 8, 100_000

LEAN: dict[str, Callable[[], Any]] = {
    "adamw": lambda: gf.adamw(1e-3),
    "clip + adamw": lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3)),
    "lion": lambda: gf.lion(1e-3),
    "sgd momentum": lambda: gf.sgd(0.1, momentum=0.9),
    "rmsprop": lambda: gf.rmsprop(1e-3),
    "dog": lambda: gf.dog(),
    "partition": lambda: gf.partition({"[0-3]": gf.adamw(1e-3), "**": gf.lion(1e-3)}),
}


def compiled_step(tx: Any) -> Any:
    params = {str(i): jnp.ones(SIZE) for i in range(LEAVES)}

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile()


@pytest.mark.parametrize("name", LEAN)
def test_a_step_needs_no_scratch_and_copies_nothing(name: str) -> None:
    compiled = compiled_step(LEAN[name]())
    assert compiled.memory_analysis().temp_size_in_bytes < 0.05 * LEAVES * SIZE * 4
    assert copied_arrays(compiled.as_text()) == []


# Wrappers that step at times: the branch not taken hands on what it was given.
SELDOM: dict[str, Callable[[Any], Any]] = {
    "apply_if_finite": lambda tx: gf.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: gf.MultiSteps(tx, 4),
    "conditionally_transform": lambda tx: gf.conditionally_transform(tx, lambda step: step % 2 == 0),
    "conditionally_mask": lambda tx: gf.conditionally_mask(tx, lambda step: step % 2 == 0),
}


@pytest.mark.parametrize("name", SELDOM)
def test_a_step_taken_at_times_needs_no_scratch(name: str) -> None:
    params = {str(i): jnp.ones(SIZE) for i in range(LEAVES)}
    tx = SELDOM[name](gf.adamw(0.1))
    update = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(0, 1))
    compiled = update.lower(params, tx.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.05 * LEAVES * SIZE * 4


def test_the_plain_form_of_lion_does_copy_its_state() -> None:
    """The control: what is looked for above is there to be seen."""
    compiled = compiled_step(gf.lion(1e-3, b2=0.4))
    assert compiled.memory_analysis().temp_size_in_bytes >= LEAVES * SIZE * 4
    assert copied_arrays(compiled.as_text())


@pytest.mark.parametrize("mode", ["hard", "smooth", "refined"])
def test_both_forms_of_lion_agree(mode: Any) -> None:
    """A number lets the momentum be read back; an array, whose value may be traced, does not."""
    rng = np.random.default_rng(0)
    forms = [gf.scale_by_lion(0.9, b2, mode=mode) for b2 in (0.5, jnp.float32(0.5))]
    params = jnp.zeros(1000)
    states = [tx.init(params) for tx in forms]
    for _ in range(10):
        g = jnp.asarray(rng.standard_normal(1000), jnp.float32)
        updates = []
        for i, tx in enumerate(forms):
            u, states[i] = tx.update(g, states[i])
            updates.append(u)
        np.testing.assert_allclose(updates[0], updates[1], atol=2e-6)


def test_lion_with_a_small_or_no_decay_is_exact() -> None:
    for b2 in (0.0, 1e-6, 0.3):
        tx = gf.scale_by_lion(0.9, b2)
        u, state = tx.update(jnp.asarray([1.0, -1e-20]), tx.init(jnp.zeros(2)))
        u, _ = tx.update(jnp.asarray([-1.0, 0.0]), state)
        expected = np.sign(0.9 * (1 - b2) * np.asarray([1.0, -1e-20]) + 0.1 * np.asarray([-1.0, 0.0]))
        np.testing.assert_array_equal(u, expected)
