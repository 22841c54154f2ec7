"""Law 5: every numeric hyper-parameter, whichever way it comes, and gradients with respect to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from specs import CASES, PARTS, build, over_all
from trees import small

import gradflow as gf
from gradflow._expressions._keys import expression_of
from laws.operations import interpreted
from laws.support import assert_close, assert_finite, extras, run_interpreted


def hyperparameters(tx: Any) -> dict[str, float]:
    """The numbers of an expression that may be traced, by address."""
    found = {}
    for address, value in gf.addresses(tx).items():
        expression = expression_of(value)
        if expression is not None and expression.maker.kind == "transformation":
            for name in expression.maker.hyperparameters:
                if isinstance(expression.arguments[name], int | float):
                    found[f"{address}.{name}"] = float(expression.arguments[name])
    return found


def _as_schedule(value: float) -> Callable[[Any], jax.Array]:
    return lambda count: jnp.full((), value, jnp.float32)


WITH_NUMBERS = [name for name in CASES if hyperparameters(build(name))]
PARTS_WITH_NUMBERS = [name for name in WITH_NUMBERS if name in PARTS]


@over_all("numbers, arrays, tracers and schedules agree", PARTS_WITH_NUMBERS)
def test_numbers_arrays_tracers_and_schedules_agree(case: str) -> None:
    tx = build(case)
    numbers = hyperparameters(tx)
    params, grads = small(0), [small(1), small(2)]
    expected, _, _ = run_interpreted(tx, params, grads)
    for convert in (np.float32, np.asarray, jnp.asarray, _as_schedule):
        same = gf.replace(tx, {address: convert(value) for address, value in numbers.items()})
        actual, _, _ = run_interpreted(same, params, grads)
        assert_close(actual, expected, rtol=2e-5)

    @interpreted
    def traced(numbers: dict[str, Any]) -> Any:
        return _scanned(gf.replace(tx, numbers), params, _stacked(grads))[0]

    assert_close(traced(numbers), _stacked(expected), rtol=2e-5)


@over_all("half precision numbers", WITH_NUMBERS)
def test_a_half_precision_number_is_taken_at_its_value(case: str) -> None:
    """A decay of 0.999 in bfloat16 is 1, which must be said; one that fits works in full precision."""
    tx = build(case)
    numbers = hyperparameters(tx)
    rounded = {a: jnp.asarray(v, jnp.bfloat16) for a, v in numbers.items()}
    params, grads = small(0), [small(1), small(2)]
    try:
        actual, _, _ = run_interpreted(gf.replace(tx, rounded), params, grads)
    except ValueError as error:
        assert "must be a number" in str(error)
        return
    plain = gf.replace(tx, {a: float(v) for a, v in rounded.items()})
    assert_close(actual, run_interpreted(plain, params, grads)[0], rtol=2e-5)


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _scanned(tx: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    """A step for each of the stacked gradients: the stacked updates, and the parameters at the end."""

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params, **extras(tx, params, grads))
        return (gf.apply_updates(params, updates), state), updates

    (moved, _), history = jax.lax.scan(step, (params, tx.init(params)), gradients)
    return history, moved


def _end(tx: Any, params: Any, gradients: Any) -> jax.Array:
    """The sum of squares of the parameters after these steps."""
    _, moved = _scanned(tx, params, gradients)
    return sum(jnp.sum(x * x) for x in jax.tree.leaves(moved))


@over_all("gradients of hyper-parameters", PARTS_WITH_NUMBERS)
def test_gradients_of_hyperparameters_are_finite(case: str) -> None:
    tx = build(case)
    params = small(0)
    stacked = _stacked([small(1), small(2), small(3)])

    @interpreted
    @jax.grad
    def sensitivity(numbers: dict[str, Any], gradients: Any) -> Any:
        return _end(gf.replace(tx, numbers), params, gradients)

    numbers = {a: jnp.float32(v) for a, v in hyperparameters(tx).items()}
    assert_finite(sensitivity(numbers, stacked))
    assert_finite(sensitivity(numbers, jax.tree.map(jnp.zeros_like, stacked)))


@over_all("gradients through the update", PARTS)
def test_gradients_through_the_update_are_finite(case: str) -> None:
    tx = build(case)
    params = small(0)

    @interpreted
    @jax.grad
    def sensitivity(params: Any) -> Any:
        gradients = jax.tree.map(lambda p: jnp.stack([0.5 * p, jnp.zeros_like(p)]), params)
        return _end(tx, params, gradients)

    assert_finite(sensitivity(params))
    assert_finite(sensitivity(jax.tree.map(jnp.zeros_like, params)))


@over_all("schedules follow the step", WITH_NUMBERS)
def test_a_schedule_is_asked_at_the_count_of_steps_taken(case: str) -> None:
    tx = build(case)
    numbers = hyperparameters(tx)
    params, grads = small(0), [small(1), small(2), small(3)]
    steps = {a: [v, 0.5 * v, 0.75 * v] for a, v in numbers.items()}

    def follow(values: list[float]) -> Callable[[Any], jax.Array]:
        return lambda count: jnp.asarray(values, jnp.float32)[count]

    scheduled = gf.replace(tx, {a: follow(values) for a, values in steps.items()})
    actual, _, _ = run_interpreted(scheduled, params, grads)
    state = scheduled.init(params)
    for t, g in enumerate(grads):
        now = gf.replace(tx, {a: _as_schedule(values[t]) for a, values in steps.items()})
        (updates,), params, state = run_interpreted(now, params, [g], state)
        assert_close(actual[t], updates, rtol=2e-5)


def _changes_no_bit(case: str, dtype: Any) -> None:
    tx = build(case)
    params, grads = small(0, dtype), small(1, dtype)
    # Operation by operation: two programs compiled as wholes may round apart.
    ours, plain = (run_interpreted(each, params, [grads] * 2) for each in (gf.tunable(tx), tx))
    jax.tree.map(np.testing.assert_array_equal, ours[:2], plain[:2])


@over_all("tunable is plain bit for bit, float32", PARTS_WITH_NUMBERS)
def test_numbers_in_the_state_change_no_bit(case: str) -> None:
    _changes_no_bit(case, jnp.float32)


@over_all("tunable is plain bit for bit, bfloat16", PARTS_WITH_NUMBERS)
def test_numbers_in_the_state_change_no_bit_in_half_precision(case: str) -> None:
    _changes_no_bit(case, jnp.bfloat16)
