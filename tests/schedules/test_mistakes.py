"""Wrong arguments fail when a schedule is built, in words that name it, the argument, and what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import schedules as s
from gradflow._expressions._arguments import WholeNumber
from schedules.examples import Example, examples

EXAMPLES = {name: e for name, e in examples().items() if not name.endswith("-all")}
ALL = {name: e for name, e in examples().items() if name.endswith("-all") or f"{name}-all" not in examples()}
LINE = s.linear_schedule(0.0, 1.0, 10)

each = pytest.mark.parametrize("example", ALL.values(), ids=ALL.keys())


def refuse(example: Example, name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{example.name}: .*'{name}'"):
        example.make(**{name: value})


@each
def test_numbers_are_checked(example: Example) -> None:
    for name in example.numbers:
        for value in (
            "0.1",
            float("nan"),
            float("inf"),
            np.nan,
            True,
            [0.1],
            np.ones(2),
            1j,
            jnp.ones(2),
            {},
        ):
            refuse(example, name, value)
        if not example.factory.checked[name].optional:
            refuse(example, name, None)
        if example.factory.checked[name].kind.low == 0:
            refuse(example, name, 0.0)
            refuse(example, name, -0.5)


@each
def test_lengths_are_checked(example: Example) -> None:
    for name, argument in example.factory.checked.items():
        if type(argument.kind) is WholeNumber:
            for value in (10.5, jnp.float32(10.5), jnp.ones(1), "3", None, True, float("nan"), float("inf")):
                refuse(example, name, value)
            if argument.kind.low is not None:
                refuse(example, name, argument.kind.low - 1)
            with pytest.raises(TypeError, match=f"'{name}' must be a whole number"):
                jax.jit(lambda n, name=name: example.make(**{name: n})(0))(5)
            plain = example.arguments[name]
            for length in (
                np.int64(plain),
                float(plain),
                np.float32(plain),
                jnp.int32(plain),
                np.array(plain),
            ):
                made = example.make(**{name: length})
                assert made == example.make()
                assert made(3) == example.make()(3)


@each
def test_flags_are_checked(example: Example) -> None:
    for name, value in example.arguments.items():
        if isinstance(value, bool):
            for wrong in (2, "yes", None, 0.5):
                refuse(example, name, wrong)
            for same in (int(value), np.bool_(value)):
                assert example.make(**{name: same}) == example.make(**{name: value})


@each
def test_unknown_and_missing_arguments(example: Example) -> None:
    with pytest.raises(TypeError, match=f"^{example.name}: .*unexpected.*Its arguments are"):
        example.make(stepz=3)
    with pytest.raises(TypeError, match=f"^{example.name}: missing a required argument"):
        example.factory.function()


@each
def test_counts_are_checked(example: Example) -> None:
    made = example.make()
    for count in ("3", None, True, [1, 2], 1j, np.ones(2, bool), jnp.ones(2, bool), jax.random.key(0), {}):
        with pytest.raises(TypeError, match=f"^{example.name}: argument 'count' must be a whole number"):
            made(count)


@each
def test_what_a_schedule_in_a_numbers_place_returns_is_checked(example: Example) -> None:
    for name in example.numbers:
        for wrong in ("0.1", None, True, s.constant_schedule(0.1)):
            with pytest.raises(
                TypeError, match=f"^{example.name}: the schedule .* must return a number; got"
            ):
                example.make(**{name: lambda count, wrong=wrong: wrong})(3)
        for wrong in (jnp.ones(2), np.ones(2), jnp.ones((), bool), jnp.ones((), jnp.complex64)):
            with pytest.raises(ValueError, match=f"^{example.name}: .*one real number per count"):
                example.make(**{name: lambda count, wrong=wrong: wrong})(3)


def test_an_array_of_one_number_is_a_number_of_one_count_alone() -> None:
    joined = s.join_schedules([lambda count: jnp.full(1, 0.5), s.constant_schedule(1.0)], [3])
    for count, value in ((2, 0.5), (3, 1.0)):
        assert joined(count).shape == ()
        assert joined(count) == value
    with pytest.raises(ValueError, match="one real number per count"):
        joined(np.arange(4))


CYCLE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 10}
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "endpoint of one step": (
        lambda: s.linear_schedule(1.0, 0.0, 1, endpoint=True),
        ValueError, r"linear_schedule: argument 'transition_steps' must be >= 2 with endpoint=True; got 1",
    ),
    "endpoint of one step, cosine": (
        lambda: s.cosine_decay_schedule(1.0, 1, endpoint=True),
        ValueError, r"cosine_decay_schedule: argument 'decay_steps' must be >= 2 with endpoint=True; got 1",
    ),
    "warm-up as long as all": (
        lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 100, 100),
        ValueError, r"'decay_steps' must include the warm-up.*> 'warmup_steps'; got decay_steps=100 and",
    ),
    "warm-up longer than all": (
        lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 101, 100),
        ValueError, r"warmup_cosine_decay_schedule: .*got decay_steps=100 and warmup_steps=101",
    ),
    "one step of decay to an endpoint": (
        lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 99, 100, endpoint=True),
        ValueError, r"> 'warmup_steps' \+ 1 with endpoint=True; got decay_steps=100 and warmup_steps=99",
    ),
    "piecewise, pairs": (
        lambda: s.piecewise_constant_schedule(1.0, [(10, 0.5)]),
        TypeError, r"'boundaries_and_scales' must be a dict \{boundary: factor\} or None; got a tuple",
    ),
    "piecewise, negative boundary": (
        lambda: s.piecewise_constant_schedule(1.0, {-10: 0.5}),
        ValueError, r"piecewise_constant_schedule: .*boundaries_and_scales, a boundary.*>= 0; got -10",
    ),
    "piecewise, fractional boundary": (
        lambda: s.piecewise_constant_schedule(1.0, {0.5: 0.5}),
        TypeError, r"boundaries_and_scales, a boundary.*whole number >= 0; got 0.5",
    ),
    "piecewise, worded boundary": (
        lambda: s.piecewise_interpolate_schedule("linear", 1.0, {"10": 0.5}),
        TypeError, r"piecewise_interpolate_schedule: .*whole number >= 0; got '10'",
    ),
    "piecewise, negative factor": (
        lambda: s.piecewise_constant_schedule(1.0, {10: -0.5}),
        ValueError, r"'boundaries_and_scales\[10\]' must be a number >= 0 or a schedule; got -0.5",
    ),
    "piecewise, no factor": (
        lambda: s.piecewise_interpolate_schedule("linear", 1.0, {10: float("nan")}),
        ValueError, r"'boundaries_and_scales\[10\]' must be a number >= 0 or a schedule; got nan",
    ),
    "piecewise, worded factor": (
        lambda: s.piecewise_constant_schedule(1.0, {10: "half"}),
        TypeError, r"'boundaries_and_scales\[10\]' must be a number >= 0 or a schedule; got 'half'",
    ),
    "interpolation unknown": (
        lambda: s.piecewise_interpolate_schedule("cubic", 1.0, {10: 0.5}),
        ValueError, r"'interpolate_type' must be 'linear' or 'cosine'; got 'cubic'",
    ),
    "interpolation of another type": (
        lambda: s.piecewise_interpolate_schedule(1.0, 1.0, {10: 0.5}),
        TypeError, r"'interpolate_type' must be 'linear' or 'cosine'; got 1.0",
    ),
    "peak after the cycle": (
        lambda: s.cosine_onecycle_schedule(10, 1.0, 1.5),
        ValueError, r"cosine_onecycle_schedule: .*'pct_start' must be a plain number in \[0, 1\]; got 1.5",
    ),
    "percent": (
        lambda: s.linear_onecycle_schedule(10, 1.0, pct_start=30),
        ValueError, r"'pct_start' must be a plain number in \[0, 1\]; got 30",
    ),
    "back before the peak": (
        lambda: s.linear_onecycle_schedule(10, 1.0, 0.5, 0.4),
        ValueError, r"'pct_final' must be a plain number in \[0.5, 1\]; got 0.4",
    ),
    "no fraction": (
        lambda: s.linear_onecycle_schedule(10, 1.0, float("nan")),
        ValueError, r"'pct_start' must be a plain number in \[0, 1\]; got nan",
    ),
    "fraction on a device": (
        lambda: s.cosine_onecycle_schedule(10, 1.0, jnp.float32(0.5)),
        TypeError, r"'pct_start' must be a plain number in \[0, 1\]; got float32\[\]",
    ),
    "join nothing": (
        lambda: s.join_schedules([], []),
        ValueError, r"join_schedules: argument 'schedules' must have at least one schedule; got none",
    ),
    "join one": (
        lambda: s.join_schedules(LINE, [5]),
        TypeError, r"join_schedules: argument 'schedules' must be a list of schedules; got a ScheduleValue",
    ),
    "join a number": (
        lambda: s.join_schedules([LINE, 0.1], [5]),
        TypeError, r"'schedules\[1\]' must be a schedule; got 0.1. For a number write constant_schedule",
    ),
    "join a factory": (
        lambda: s.join_schedules([LINE, s.linear_schedule], [5]),
        TypeError, r"'schedules\[1\]' must be a schedule; got the function linear_schedule. It is a factory",
    ),
    "join an optimizer": (
        lambda: s.join_schedules([gf.scale(0.1), LINE], [5]),
        TypeError, r"'schedules\[0\]' must be a schedule; got a GradientTransformation",
    ),
    "join a generator": (
        lambda: s.join_schedules((x for x in [LINE]), []),
        TypeError, r"'schedules' must be a list of schedules; got a generator",
    ),
    "boundaries too few": (
        lambda: s.join_schedules([LINE, LINE, LINE], [5]),
        ValueError, r"'boundaries' must have one number fewer.*2 for 3; got 1",
    ),
    "boundaries unsorted": (
        lambda: s.join_schedules([LINE, LINE, LINE], [10, 5]),
        ValueError, r"join_schedules: argument 'boundaries' must ascend; got 10, then 5",
    ),
    "boundary negative": (
        lambda: s.join_schedules([LINE, LINE], [-5]),
        ValueError, r"'boundaries\[0\]' must be a whole number >= 0; got -5",
    ),
    "boundary of another type": (
        lambda: s.join_schedules([LINE, LINE], [5.5]),
        TypeError, r"'boundaries\[0\]' must be a whole number >= 0; got 5.5",
    ),
    "boundary alone": (
        lambda: s.join_schedules([LINE, LINE], 5),
        TypeError, r"'boundaries' must be a list of whole numbers; got 5",
    ),
    "no cycles": (
        lambda: s.sgdr_schedule([]),
        ValueError, r"sgdr_schedule: argument 'cosine_kwargs' must have at least one cycle; got none",
    ),
    "one cycle": (
        lambda: s.sgdr_schedule(CYCLE),
        TypeError, r"sgdr_schedule: argument 'cosine_kwargs' must be a list of dicts; got a dict with keys",
    ),
    "cycle is a number": (
        lambda: s.sgdr_schedule([CYCLE, 10]),
        TypeError, r"sgdr_schedule: argument 'cosine_kwargs\[1\]' must be a dict; got 10",
    ),
    "cycle without a length": (
        lambda: s.sgdr_schedule([{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 1}]),
        TypeError, r"sgdr_schedule: argument 'cosine_kwargs\[0\]': .*missing a required.*: 'decay_steps'",
    ),
    "cycle all warm-up": (
        lambda: s.sgdr_schedule([CYCLE, {**CYCLE, "warmup_steps": 10}]),
        ValueError, r"sgdr_schedule: argument 'cosine_kwargs\[1\]': .*got decay_steps=10 and warmup_steps=10",
    ),
    "cycle misspelt": (
        lambda: s.sgdr_schedule([{**CYCLE, "end": 0.1}]),
        TypeError, r"sgdr_schedule: argument 'cosine_kwargs\[0\]': .*unexpected keyword argument 'end'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    call, kind, words = MISTAKES[mistake]
    with pytest.raises(kind, match=words):
        call()


def test_every_schedule_has_its_mistakes_checked() -> None:
    own = {name for name, e in EXAMPLES.items() if set(e.arguments) - set(e.factory.checked)}
    tested = " ".join(words for _, _, words in MISTAKES.values())
    for name in own:
        assert name in tested, name
