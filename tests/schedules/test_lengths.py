"""Lengths as programs write them: whole floats, scalar arrays, beyond int32, zero, negative, in arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import schedules as s

EPOCHS = 5 * 1000 / 50  # 100.0


def values(schedule, counts):
    return np.asarray([schedule(count) for count in counts])


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (lambda: s.cosine_decay_schedule(1.0, EPOCHS), lambda: s.cosine_decay_schedule(1.0, 100)),
        (lambda: s.linear_schedule(0.0, 1.0, 10.0), lambda: s.linear_schedule(0.0, 1.0, 10)),
        (
            lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 10.0, EPOCHS),
            lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100),
        ),
        (
            lambda: s.join_schedules([s.constant_schedule(1.0), s.constant_schedule(2.0)], [10.0]),
            lambda: s.join_schedules([s.constant_schedule(1.0), s.constant_schedule(2.0)], [10]),
        ),
        (
            lambda: s.join_schedules([s.constant_schedule(1.0), s.constant_schedule(2.0)], jnp.array([10])),
            lambda: s.join_schedules([s.constant_schedule(1.0), s.constant_schedule(2.0)], [10]),
        ),
        (
            lambda: s.piecewise_constant_schedule(1.0, {10.0: 0.5}),
            lambda: s.piecewise_constant_schedule(1.0, {10: 0.5}),
        ),
        (lambda: gf.lookahead(gf.sgd(0.1), 5.0, 0.5), lambda: gf.lookahead(gf.sgd(0.1), 5, 0.5)),
        (lambda: gf.lbfgs(memory_size=np.int64(4)), lambda: gf.lbfgs(memory_size=4)),
    ],
)
def test_whole_floats_and_integer_scalars_are_lengths(written, plain):
    assert written() == plain()
    assert repr(written()) == repr(plain())


def test_fractions_are_refused_everywhere():
    for wrong in (
        lambda: s.cosine_decay_schedule(1.0, 10.5),
        lambda: s.join_schedules([s.constant_schedule(1.0)] * 2, [10.5]),
        lambda: s.piecewise_constant_schedule(1.0, {10.5: 0.5}),
        lambda: gf.lookahead(gf.sgd(0.1), 5.5, 0.5),
    ):
        with pytest.raises(TypeError, match=r"must be a whole number >= .; got \d+\.5"):
            wrong()


LONG = int(1e10)
FAR = 2**31 - 1


def test_a_product_that_is_whole_up_to_rounding_is_a_length() -> None:
    assert 0.07 * 100 != 7 != 0.57 * 100  # 7.000000000000001 and 56.99999999999999
    assert s.linear_schedule(0.0, 1.0, 0.07 * 100) == s.linear_schedule(0.0, 1.0, 7)
    assert s.linear_schedule(0.0, 1.0, 0.57 * 100) == s.linear_schedule(0.0, 1.0, 57)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (s.linear_schedule(0.0, 1.0, LONG), lambda t: t / LONG),
        (s.cosine_decay_schedule(1.0, LONG), lambda t: (1 + np.cos(np.pi * t / LONG)) / 2),
        (s.exponential_decay(1.0, LONG, 0.5), lambda t: 0.5 ** (t / LONG)),
        (
            s.warmup_cosine_decay_schedule(0.0, 1.0, 10, LONG),
            lambda t: t / 10 if t < 10 else (1 + np.cos(np.pi * (t - 10) / (LONG - 10))) / 2,
        ),
        (s.piecewise_constant_schedule(1.0, {4: 0.5, LONG: 0.5}), lambda t: 1.0 if t < 4 else 0.5),
        (
            s.join_schedules([s.linear_schedule(0.0, 1.0, 8), s.constant_schedule(3.0)], [LONG]),
            lambda t: min(t / 8, 1),
        ),
    ],
    ids=["linear", "cosine", "exponential", "warmup", "piecewise", "join"],
)
def test_lengths_beyond_int32(schedule, formula):
    counts = [0, 1, 3, 4, 9, 10, 11, 1000, 10**9, FAR]
    expected = [formula(np.float64(t)) for t in counts]
    np.testing.assert_allclose(values(schedule, counts), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(counts)), expected, rtol=1e-6)


def test_64_bit_counts_pass_boundaries_beyond_int32():
    with jax.enable_x64(True):
        joined = s.join_schedules([s.constant_schedule(1.0), s.linear_schedule(2.0, 3.0, 10)], [LONG])
        counts = jnp.asarray([0, LONG - 1, LONG, LONG + 5, LONG + 20])
        np.testing.assert_allclose(joined(counts), [1, 1, 2, 2.5, 3], rtol=1e-12)
        np.testing.assert_allclose(s.linear_schedule(0.0, 1.0, 2 * LONG)(jnp.asarray(LONG)), 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    "make", [s.linear_schedule, lambda a, b, *rest: s.polynomial_schedule(a, b, 2.0, *rest)]
)
def test_a_change_of_no_length_is_at_its_end_from_its_beginning(make):
    np.testing.assert_array_equal(values(make(0.0, 0.5, 0), range(4)), [0.5] * 4)
    np.testing.assert_array_equal(values(make(0.0, 0.5, 0, 2), range(5)), [0, 0, 0.5, 0.5, 0.5])
    warm = s.join_schedules([make(0.0, 0.5, 0), s.linear_schedule(0.5, 0.0, 5)], [0])
    np.testing.assert_allclose(values(warm, range(6)), [0.5, 0.4, 0.3, 0.2, 0.1, 0], atol=1e-7)


def test_a_negative_beginning_is_the_first_step():
    for make in (
        lambda begin: s.linear_schedule(0.0, 1.0, 10, begin),
        lambda begin: s.polynomial_schedule(0.0, 1.0, 2.0, 10, begin),
        lambda begin: s.exponential_decay(1.0, 10, 0.5, begin),
        lambda begin: s.warmup_exponential_decay_schedule(0.0, 1.0, 3, 10, 0.5, begin),
    ):
        np.testing.assert_array_equal(values(make(-5), range(15)), values(make(0), range(15)))


def test_equal_boundaries_skip_a_piece_and_extra_ones_are_unused():
    pieces = [s.constant_schedule(float(k)) for k in range(4)]
    joined = s.join_schedules(pieces, [2, 4, 4, 9, 11])
    np.testing.assert_array_equal(values(joined, range(12)), [0, 0, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3])
    assert joined == s.join_schedules(pieces, [2.0, 4.0, 4.0, 9.0, 11.0])


class Settings:
    """A mapping as libraries of configurations have it: it has `keys` and items, and is not a `Mapping`."""

    def __init__(self, **items):
        self.items_ = items

    def keys(self):
        return self.items_.keys()

    def __getitem__(self, key):
        return self.items_[key]


def test_cycles_and_boundaries_may_come_from_generators_ranges_and_settings():
    cycle = {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 5}
    plain = s.sgdr_schedule([cycle, cycle])
    for cycles in ((cycle for _ in range(2)), [Settings(**cycle)] * 2):
        other = s.sgdr_schedule(cycles)
        assert other == plain
        np.testing.assert_array_equal(values(other, range(12)), values(plain, range(12)))
    pieces = [s.constant_schedule(float(k)) for k in range(3)]
    assert s.join_schedules(pieces, range(5, 10, 4)) == s.join_schedules(pieces, [5, 9])
    with pytest.raises(
        TypeError, match=r"sgdr_schedule: argument 'cosine_kwargs\[1\]' must be a dict; got 3"
    ):
        s.sgdr_schedule([cycle, 3])
