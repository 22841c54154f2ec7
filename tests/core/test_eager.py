"""Updates without jit: compiled as a whole where that is safe, and never with other numbers."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._core._eager import LARGEST, plan


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(3, jnp.bfloat16), "n": None}


def run(tx: Any, listen: bool) -> Any:
    """Three steps; while a collector is active, every stage is called by itself."""
    params = tree(0)
    state = tx.init(params)
    for seed in (1, 2, 3):
        if listen:
            with gf.collecting():
                updates, state = tx.update(tree(seed), state, params)
        else:
            updates, state = tx.update(tree(seed), state, params)
        params = gf.apply_updates(params, updates)
    return params, state


def program_of(tx: Any) -> Any:
    compiled = plan(tx.update.stage.expression)
    return None if compiled is None else compiled.program


EXAMPLES = {
    "adamw": lambda: gf.adamw(0.1, mask=gf.ndim(at_least=2)),
    "array rate": lambda: gf.adam(jnp.float32(0.1), b1=jnp.float32(0.8)),
    "schedule": lambda: gf.chain(gf.clip_by_global_norm(0.5), gf.sgd(gf.cosine_decay_schedule(0.1, 5), 0.9)),
    "guard": lambda: gf.apply_if_finite(gf.MultiSteps(gf.rmsprop(0.1), 2), 3),
    "partition": lambda: gf.partition(
        {"a": gf.lion(0.1), "b": gf.set_to_zero()}, {"w": "a", "b": "b", "n": "a"}
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_whole_gives_the_numbers_of_its_stages(name: str) -> None:
    tx = EXAMPLES[name]()
    whole, plain = run(tx, False), run(tx, True)
    assert program_of(tx) is not None
    assert not program_of(tx).is_refused
    assert jax.tree.structure(whole) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(plain), strict=True):
        assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), 1e-5, 1e-6)


def test_other_numbers_are_not_another_program() -> None:
    programs = {program_of(gf.adam(rate, b1=b1)) for rate, b1 in ((0.1, 0.9), (0.2, 0.8), (0.3, 0.9))}
    assert len(programs) == 1
    (program,) = programs
    run(gf.adam(0.1), False)
    before = program.call._cache_size()
    for rate in (0.2, 0.3):
        run(gf.adam(rate), False)
    assert program.call._cache_size() == before
    assert program_of(gf.adam(0.1, nesterov=True)) is not program


def test_numbers_of_every_type_and_those_inside_schedules_are_operands() -> None:
    rates = (
        0.5,
        np.float32(0.25),
        np.float64(0.125),
        jnp.float32(0.2),
        jnp.bfloat16(0.5),
        np.int32(1),
        1,
        np.array(0.3),
    )
    assert len({program_of(gf.sgd(rate)) for rate in rates if not isinstance(rate, jax.Array)}) == 1
    for rate in rates:
        updates, _ = gf.sgd(rate).update(tree(1), gf.sgd(rate).init(tree(1)))
        np.testing.assert_allclose(updates["w"], -float(rate) * np.asarray(tree(1)["w"]), 1e-6)
    schedules = [gf.linear_schedule(start, 0.0, 10) for start in (0.1, 0.2, 1)]
    (program,) = {program_of(gf.sgd(schedule)) for schedule in schedules}
    run(gf.sgd(schedules[0]), False)
    before = program.call._cache_size()
    for schedule in schedules:
        run(gf.sgd(schedule), False)
    assert program.call._cache_size() == before


def test_a_function_from_elsewhere_is_called_every_time() -> None:
    rate = [0.5]
    tx = gf.chain(gf.scale_by_adam(), gf.scale_by_learning_rate(lambda count: rate[0]))
    assert program_of(tx) is None
    params = tree(0)
    state = tx.init(params)
    once, _ = tx.update(tree(1), state, params)
    rate[0] = 1.0
    twice, _ = tx.update(tree(1), state, params)
    np.testing.assert_allclose(twice["w"], 2 * once["w"], 1e-6)
    branching = gf.sgd(lambda count: 0.1 if count < 1 else 0.2)
    run(branching, False)


def test_a_program_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tx, params = gf.adam(0.123), tree(0)
    state, program = tx.init(params), program_of(tx)
    monkeypatch.setattr(program, "is_refused", False)
    tried = []

    def fail(*operands: Any) -> Any:
        tried.append(operands)
        raise TypeError("not to be traced")

    monkeypatch.setattr(program, "call", fail)
    for _ in range(2):
        tx.update(params, state, params)
    assert len(tried) == 1


def test_mistakes_have_the_same_words() -> None:
    tx = gf.adamw(0.1)
    params = tree(0)
    state = tx.init(params)
    for wrong in ({**params, "w": jnp.ones(2)}, {**params, "w": jnp.ones((3, 4), jnp.int32)}):
        messages = []
        for listen in (False, True):
            listening = gf.collecting() if listen else contextlib.nullcontext()
            with listening, pytest.raises((TypeError, ValueError)) as info:
                tx.update(wrong, state, params)
            messages.append(str(info.value))
        assert messages[0] == messages[1]
    assert not program_of(tx).is_refused


def test_large_trees_and_traced_ones_are_called_leaf_by_leaf() -> None:
    tx = gf.sgd(0.25)
    params = {i: jnp.ones(2) for i in range(LARGEST + 1)}
    before = program_of(tx).call._cache_size()  # others may have run the same program
    tx.update(params, tx.init(params), params)
    jax.vmap(lambda g: tx.update(g, tx.init(g), g)[0])(jnp.ones((2, 3)))
    assert program_of(tx).call._cache_size() == before


def test_what_passes_through_is_handed_on_and_not_copied() -> None:
    params = tree(0)
    tx = gf.masked(gf.sgd(0.1), {"w": True, "b": False, "n": False})
    assert program_of(tx) is not None
    for _ in range(2):
        updates, _ = tx.update(params, tx.init(params), params)
        assert updates["b"] is params["b"]
        assert updates["w"] is not params["w"]
    other = gf.masked(gf.sgd(0.1), {"w": False, "b": True, "n": False})
    updates, _ = other.update(params, other.init(params), params)
    assert updates["w"] is params["w"]
