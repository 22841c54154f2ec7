"""What every schedule keeps: it is a value, and one account of counts, dtypes, shapes and gradients."""

import copy
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import schedules
from gradflow._expressions._registry import OWN_FACTORIES
from schedules.examples import FACTORIES, Example, examples

EXAMPLES = examples()
COUNTS = np.arange(60, dtype=np.int32)
LAST = 2**31 - 1
ROUNDING = 1e-6  # XLA rounds sines and powers of arrays and of scalars differently

ALL = {name: e for name, e in EXAMPLES.items() if name.endswith("-all") or f"{name}-all" not in EXAMPLES}

each = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
each_with_all_arguments = pytest.mark.parametrize("example", ALL.values(), ids=ALL.keys())


def test_the_room_lists_what_it_has() -> None:
    public = {name: value for name, value in vars(schedules).items() if not name.startswith("_")}
    listed = {name for name, value in public.items() if not isinstance(value, type)}
    assert listed == set(FACTORIES)
    assert listed == {name for name, factory in OWN_FACTORIES.items() if factory.kind == "schedule"}
    assert len(listed) >= 14


@each
def test_a_schedule_built_again_is_the_same_value(example: Example) -> None:
    one, two = example.make(), example.make()
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    assert one.expression.rebuild() == one
    assert one != schedules.constant_schedule(17.0)
    assert one != one(0)


@each
def test_a_schedule_prints_as_its_call(example: Example) -> None:
    made = example.make()
    assert repr(made).startswith(f"{example.name}(")
    assert "<" not in repr(made)
    again = eval(repr(made), dict(vars(schedules)))
    assert again == made


@each
def test_a_schedule_pickles_and_copies(example: Example) -> None:
    made = example.make()
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert twin == made
        np.testing.assert_array_equal(twin(COUNTS), made(COUNTS))


@each
def test_other_arguments_make_another_value(example: Example) -> None:
    made = example.make()
    for name in example.numbers:
        other = example.make(**{name: example.arguments[name] * 1.25})
        assert other != made, name


@each
def test_a_schedule_is_frozen_when_it_is_made(example: Example) -> None:
    arguments = copy.deepcopy(example.arguments)
    made = example.factory.function(**arguments)
    before = np.asarray(made(COUNTS))
    for value in arguments.values():
        if isinstance(value, dict | list):
            value.clear()
    np.testing.assert_array_equal(made(COUNTS), before)
    assert made == example.make()


@each
def test_every_kind_of_count_gives_the_same_strong_float(example: Example) -> None:
    made = example.make()
    expected = np.asarray(made(COUNTS))
    assert expected.dtype == np.float32
    assert expected.shape == COUNTS.shape
    jitted = jax.jit(made)
    for count in (0, 5, 12, 39):
        kinds: list[Any] = [
            count, np.int64(count), np.uint8(count), np.asarray(count), float(count),
            jnp.int32(count), jnp.uint32(count), jnp.float32(count), jnp.asarray(count),
        ]  # fmt: skip
        for value in (*map(made, kinds), jitted(count)):
            assert isinstance(value, jax.Array)
            assert (value.shape, value.dtype, value.weak_type) == ((), np.float32, False)
            np.testing.assert_allclose(value, expected[count], rtol=ROUNDING)


@each
def test_arrays_of_counts_keep_their_shape(example: Example) -> None:
    made = example.make()
    expected = np.asarray([made(int(count)) for count in COUNTS])
    counts = jnp.asarray(COUNTS)
    np.testing.assert_allclose(made(counts), expected, rtol=ROUNDING)
    np.testing.assert_allclose(jax.vmap(made)(counts), expected, rtol=ROUNDING)
    np.testing.assert_allclose(made(counts.reshape(3, 10, 2)), expected.reshape(3, 10, 2), rtol=ROUNDING)
    assert made(jnp.zeros((0,), jnp.int32)).shape == (0,)


@each
def test_64_bits_give_float64(example: Example) -> None:
    narrow = np.asarray(example.make()(COUNTS))
    with jax.enable_x64(True):
        made = example.make()
        for counts in (COUNTS, COUNTS.astype(np.int64), jnp.asarray(COUNTS, jnp.int64)):
            value = made(counts)
            assert (value.dtype, value.weak_type) == (np.float64, False)
            np.testing.assert_allclose(value, narrow, rtol=1e-6, atol=1e-9)
        assert np.isfinite(made(2**40))


@each
def test_counts_beyond_both_ends(example: Example) -> None:
    made = example.make()
    first, last = made(0), made(LAST)
    assert np.isfinite(last)
    for count in (-1, -(2**40), np.int64(-5), jnp.int32(-(2**31)), -0.5):
        assert made(count) == first, count
    assert made(2**40) == last
    assert made(np.uint32(2**32 - 1)) == last
    assert made(jnp.uint32(2**32 - 1)) == last
    assert made(LAST - 1) == last


@each
def test_a_schedule_works_in_scan_and_cond_and_leaks_nothing(example: Example) -> None:
    made = example.make()
    with jax.checking_leaks():

        def step(count: Any, _: Any) -> Any:
            return count + 1, jax.lax.cond(count >= 0, made, lambda c: jnp.float32(0), count)

        _, values = jax.lax.scan(step, jnp.int32(0), length=len(COUNTS))
    np.testing.assert_allclose(values, made(COUNTS), rtol=ROUNDING)


@each
def test_a_schedule_costs_one_equation_a_piece(example: Example) -> None:
    pieces = len(example.arguments.get("schedules", example.arguments.get("cosine_kwargs", [])))
    equations = jax.make_jaxpr(example.make())(jnp.int32(3)).eqns
    assert len(equations) == (pieces + 2 if pieces else 1)


def test_an_exponent_of_one_costs_no_power() -> None:
    decays = [
        schedules.warmup_cosine_decay_schedule(0.0, 1.0, 5, 50, exponent=e)
        for e in (1.0, jnp.float32(1), 2.0)
    ]
    plain, given, squared = (str(jax.make_jaxpr(decay)(jnp.int32(3))) for decay in decays)
    assert " log1p " not in plain
    assert " log1p " in given
    assert " log1p " in squared
    assert plain.count(" sin ") == given.count(" sin ") == 1
    np.testing.assert_allclose(decays[0](COUNTS), decays[1](COUNTS), rtol=ROUNDING, atol=1e-9)


def test_the_derivative_by_a_fractional_count_is_right_halfway() -> None:
    line, wave = schedules.linear_schedule(0.3, 0.1, 10), schedules.cosine_decay_schedule(0.3, 10)
    np.testing.assert_allclose(jax.grad(line)(5.0), -0.02, rtol=ROUNDING)
    np.testing.assert_allclose(jax.grad(wave)(5.0), -0.3 * np.pi / 20, rtol=ROUNDING)


@each
def test_numbers_arrays_tracers_and_schedules_agree(example: Example) -> None:
    expected = np.asarray(example.make()(COUNTS))
    given = {name: example.arguments[name] for name in example.numbers}
    for kind in (np.float64, np.float32, np.asarray, jnp.float32, jnp.asarray):
        arrays = {name: kind(number) for name, number in given.items()}
        np.testing.assert_array_equal(example.make(**arrays)(COUNTS), expected)
    constants = {name: schedules.constant_schedule(number) for name, number in given.items()}
    np.testing.assert_allclose(example.make(**constants)(COUNTS), expected, rtol=ROUNDING)
    tracers = {name: jnp.float32(number) for name, number in given.items()}
    traced = jax.jit(lambda numbers: example.make(**numbers)(COUNTS))(tracers)
    np.testing.assert_allclose(traced, expected, rtol=ROUNDING)


@each_with_all_arguments
def test_gradients_are_finite_and_true(example: Example) -> None:
    if not example.numbers:
        pytest.skip("no argument of its own is a number")
    with jax.enable_x64(True):
        counts = np.where(COUNTS > 57, LAST, COUNTS)
        numbers = {name: float(example.arguments[name]) for name in example.numbers}

        def values(numbers: Any) -> Any:
            return example.make(**numbers)(counts)

        weights = np.cos(COUNTS)
        forward = jax.jit(jax.jacfwd(values))(numbers)
        backward = jax.jit(jax.grad(lambda numbers: jnp.sum(weights * values(numbers))))(numbers)
        for name, number in numbers.items():
            assert np.isfinite(forward[name]).all(), name
            np.testing.assert_allclose(backward[name], weights @ forward[name], rtol=1e-9, atol=1e-12)
            h = 1e-6 * number
            up, down = values({**numbers, name: number + h}), values({**numbers, name: number - h})
            np.testing.assert_allclose(forward[name], (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


@each_with_all_arguments
def test_gradients_are_finite_at_the_edges_of_the_ranges(example: Example) -> None:
    counts = jnp.asarray([0, 1, 3, 4, 12, 15, 19, 20, LAST])
    for name in example.numbers:
        numbers = [1e-3, 1.0, 1e3] if name.endswith("factor") else [1e-30, 1.0, 1e30]
        if example.factory.checked[name].kind.low < 0:
            numbers += [0.0, -1.0]

        def total(x: Any, name: str = name) -> Any:
            return example.make(**{name: x})(counts).sum()

        gradients = jax.jit(jax.vmap(jax.grad(total)))(jnp.asarray(numbers))
        assert np.isfinite(gradients).all(), name


ENDING = {name: e for name, e in EXAMPLES.items() if "endpoint" in e.factory.parameters}


@pytest.mark.parametrize("example", ENDING.values(), ids=ENDING.keys())
def test_endpoint_reaches_the_end_on_the_last_of_n_steps(example: Example) -> None:
    length = next(n for n in ("decay_steps", "transition_steps") if n in example.arguments)
    begin = example.arguments.get("transition_begin", 0)
    if "stable_steps" in example.arguments:
        begin = example.arguments["warmup_steps"] + example.arguments["stable_steps"]
    steps = example.arguments[length]
    plain, exact = example.make(endpoint=False), example.make(endpoint=True)
    end = plain(LAST)
    assert plain(begin + steps - 1) != end
    assert plain(begin + steps) == end
    assert exact(begin + steps - 2) != end
    assert exact(begin + steps - 1) == end
    assert exact(LAST) == end
    shorter = example.make(**{length: steps - 1, "endpoint": False})
    np.testing.assert_array_equal(exact(COUNTS), shorter(COUNTS))


def test_schedules_that_end_have_an_endpoint() -> None:
    without = {n for n, f in FACTORIES.items() if "endpoint" not in f.parameters}
    assert without == {
        "constant_schedule", "exponential_decay", "join_schedules", "piecewise_constant_schedule",
        "piecewise_interpolate_schedule", "sgdr_schedule", "warmup_constant_schedule",
        "warmup_exponential_decay_schedule",
    }  # fmt: skip


@each
def test_a_schedule_drives_an_optimizer(example: Example) -> None:
    made = example.make()
    tx = gf.chain(gf.scale_by_schedule(made))
    assert tx == gf.chain(gf.scale_by_schedule(example.make()))
    assert made.expression.line in tx.expression.line
    state = tx.init(jnp.ones(2))
    for count in range(3):
        updates, state = tx.update(jnp.ones(2), state)
        np.testing.assert_allclose(updates, np.full(2, made(count)), rtol=1e-6)


@each
def test_docstrings_say_the_rule_and_stay_short(example: Example) -> None:
    text = inspect.getdoc(example.factory.function) or ""
    assert 1 < len(text.splitlines()) <= 25
    own = set(example.factory.parameters)
    assert "as in" in text or "cosine_kwargs" in own or all(name in text for name in own)


@pytest.mark.parametrize("make", [gf.sgd, gf.adamw, gf.inject_hyperparams(gf.sgd)])
def test_a_schedule_may_return_an_array_of_one_number(make: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(())}
    found = []
    for schedule in (lambda count: 0.1 * jnp.float32(count), lambda count: 0.1 * jnp.float32(count)[None]):
        tx = make(learning_rate=schedule)
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
        found.append((updates, state))
    jax.tree.map(np.testing.assert_array_equal, *found)
