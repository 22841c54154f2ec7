"""The schedules' numbers: reference trajectories, float64 formulas, other people's code, exact edges."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradflow import schedules as s
from schedules.examples import FACTORIES, Example, examples

LAST = 2**31 - 1
COUNTS = np.arange(0, 60)
ORACLES = {
    path.stem: oracle
    for path in sorted((Path(__file__).parents[1] / "oracles").glob("schedule_*.json"))
    if (oracle := json.loads(path.read_text()))["kind"] == "schedule"
}


def build(node: Any) -> Any:
    """A call in an oracle's file, made."""
    if isinstance(node, list):
        return [build(item) for item in node]
    if isinstance(node, dict) and "__pairs__" in node:
        return dict(node["__pairs__"])
    if isinstance(node, dict):
        kwargs = {name: build(value) for name, value in node.get("kwargs", {}).items()}
        return getattr(s, node["name"])(*build(node["args"]), **kwargs)
    return node


@pytest.mark.parametrize("case", ORACLES)
def test_reference_trajectories(case: str) -> None:
    oracle = ORACLES[case]
    expected = np.asarray(oracle["values"])
    for call in (oracle["gradflow"], *oracle["alternatives"]):
        with jax.enable_x64(True):
            values = build(call)(np.arange(len(expected)))
        np.testing.assert_allclose(values, expected, rtol=0, atol=oracle["tolerance"])
        np.testing.assert_allclose(build(call)(np.arange(len(expected))), expected, rtol=2e-6, atol=1e-8)


def test_there_are_twelve_reference_trajectories() -> None:
    assert len(ORACLES) == 12


# The formulas of the docstrings in float64, one count at a time.


def polynomial(c, init_value, end_value, power, transition_steps, transition_begin=0, endpoint=False):
    n = transition_steps - endpoint
    t = min(max(c - transition_begin, 0), n)
    return end_value + (init_value - end_value) * (1 - t / n) ** power


def exponential(
    c, init_value, transition_steps, decay_rate, transition_begin=0, staircase=False, end_value=None
):
    t = max(c - transition_begin, 0) / transition_steps
    value = init_value * decay_rate ** (np.floor(t) if staircase else t)
    if end_value is None:
        return value
    return max(value, end_value) if decay_rate < 1 else min(value, end_value)


def cosine(c, init_value, decay_steps, alpha=0.0, exponent=1.0, endpoint=False):
    n = decay_steps - endpoint
    wave = (1 + np.cos(np.pi * min(c, n) / n)) / 2
    return init_value * (alpha + (1 - alpha) * wave**exponent)


def warmup(c, init_value, peak_value, warmup_steps):
    return init_value + (peak_value - init_value) * min(c / warmup_steps if warmup_steps else 1, 1)


def warmup_cosine(
    c, init_value, peak_value, warmup_steps, decay_steps, end_value=0.0, exponent=1.0, endpoint=False
):
    if c < warmup_steps:
        return warmup(c, init_value, peak_value, warmup_steps)
    t = min((c - warmup_steps) / (decay_steps - endpoint - warmup_steps), 1)
    return end_value + (peak_value - end_value) * ((1 + np.cos(np.pi * t)) / 2) ** exponent


def warmup_exponential(c, init_value, peak_value, warmup_steps, transition_steps, decay_rate, **others):
    if c < warmup_steps:
        return warmup(c, init_value, peak_value, warmup_steps)
    return exponential(c - warmup_steps, peak_value, transition_steps, decay_rate, **others)


def wsd(
    c, peak_value, warmup_steps, stable_steps, decay_steps, init_value=0.0, end_value=0.0, decay="linear",
    endpoint=False,
):  # fmt: skip
    if c < warmup_steps:
        return warmup(c, init_value, peak_value, warmup_steps)
    t = min(max((c - warmup_steps - stable_steps) / (decay_steps - endpoint), 0), 1)
    f = {"linear": t, "cosine": (1 - np.cos(np.pi * t)) / 2, "sqrt": np.sqrt(t)}[decay]
    return peak_value + (end_value - peak_value) * f


def stairs(c, init_value, boundaries_and_scales=None):
    passed = [scale for boundary, scale in (boundaries_and_scales or {}).items() if c >= boundary]
    return init_value * np.prod(passed)


def through(c, kind, points):
    """The curve of straight lines or half waves through points (count, value)."""
    for (a, low), (b, high) in itertools.pairwise(points):
        if a <= c < b:
            t = (c - a) / (b - a)
            return low + (high - low) * (t if kind == "linear" else (1 - np.cos(np.pi * t)) / 2)
    return points[-1][1]


def interpolated(c, interpolate_type, init_value, boundaries_and_scales=None):
    points = [(0, init_value)]
    for boundary, scale in sorted((boundaries_and_scales or {}).items()):
        points.append((boundary, points[-1][1] * scale))
    return through(c, interpolate_type, points)


def linear_onecycle(
    c, transition_steps, peak_value, pct_start=0.3, pct_final=0.85, div_factor=25.0,
    final_div_factor=1e4, endpoint=False,
):  # fmt: skip
    n, low = transition_steps - endpoint, peak_value / div_factor
    up, down = int(pct_start * n), int(pct_final * n)
    return through(c, "linear", [(0, low), (up, peak_value), (down, low), (n, low / final_div_factor)])


def cosine_onecycle(
    c, transition_steps, peak_value, pct_start=0.3, div_factor=25.0, final_div_factor=1e4, endpoint=False
):
    n, low = transition_steps - endpoint, peak_value / div_factor
    return through(c, "cosine", [(0, low), (int(pct_start * n), peak_value), (n, low / final_div_factor)])


def joined(c, schedules, boundaries):
    piece = sum(c >= boundary for boundary in boundaries)
    return float(schedules[piece](c - ([0, *boundaries][piece])))


def sgdr(c, cosine_kwargs):
    for kwargs in cosine_kwargs[:-1]:
        if c < kwargs["decay_steps"]:
            return warmup_cosine(c, **kwargs)
        c -= kwargs["decay_steps"]
    return warmup_cosine(c, **cosine_kwargs[-1])


FORMULAS: dict[str, Callable[..., Any]] = {
    "constant_schedule": lambda c, value: value,
    "linear_schedule": lambda c, *a, **k: polynomial(c, *a, power=1.0, **k),
    "polynomial_schedule": polynomial,
    "exponential_decay": exponential,
    "cosine_decay_schedule": cosine,
    "warmup_constant_schedule": warmup,
    "warmup_cosine_decay_schedule": warmup_cosine,
    "warmup_exponential_decay_schedule": warmup_exponential,
    "piecewise_constant_schedule": stairs,
    "piecewise_interpolate_schedule": interpolated,
    "linear_onecycle_schedule": linear_onecycle,
    "cosine_onecycle_schedule": cosine_onecycle,
    "join_schedules": joined,
    "sgdr_schedule": sgdr,
    "wsd_schedule": wsd,
}

# Calls beside the discovered ones, each for an edge of its own.
EDGES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear-one_step": ("linear_schedule", {"init_value": 1.0, "end_value": -2.0, "transition_steps": 1}),
    "linear-flat": ("linear_schedule", {"init_value": 0.1, "end_value": 0.1, "transition_steps": 9}),
    "polynomial-small_power": (
        "polynomial_schedule",
        {"init_value": 0.0, "end_value": 1.0, "power": 0.01, "transition_steps": 50},
    ),
    "polynomial-large_power": (
        "polynomial_schedule",
        {"init_value": 1.0, "end_value": 0.0, "power": 40.0, "transition_steps": 50},
    ),
    "exponential-growth": (
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 3, "decay_rate": 1.5, "end_value": 1.0},
    ),
    "exponential-stairs_up": (
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 7, "decay_rate": 2.0, "staircase": True},
    ),
    "exponential-rate_one": (
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 3, "decay_rate": 1.0},
    ),
    "exponential-bound_above_start": (
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 3, "decay_rate": 0.5, "end_value": 0.3},
    ),
    "cosine-rising": ("cosine_decay_schedule", {"init_value": -1.0, "decay_steps": 30, "alpha": 3.0}),
    "cosine-small_exponent": (
        "cosine_decay_schedule",
        {"init_value": 1.0, "decay_steps": 30, "exponent": 0.3},
    ),
    "wsd-cosine": (
        "wsd_schedule",
        {"peak_value": 0.7, "warmup_steps": 0, "stable_steps": 0, "decay_steps": 9, "decay": "cosine"},
    ),
    "wsd-sqrt": (
        "wsd_schedule",
        {"peak_value": 0.7, "warmup_steps": 3, "stable_steps": 5, "decay_steps": 30, "decay": "sqrt"},
    ),
    "warmup-none": ("warmup_constant_schedule", {"init_value": 0.0, "peak_value": 0.7, "warmup_steps": 0}),
    "warmup_cosine-no_warmup": (
        "warmup_cosine_decay_schedule",
        {"init_value": 9.0, "peak_value": 0.7, "warmup_steps": 0, "decay_steps": 10},
    ),
    "warmup_cosine-no_peak": (
        "warmup_cosine_decay_schedule",
        {"init_value": 1.0, "peak_value": 0.0, "warmup_steps": 5, "decay_steps": 30, "end_value": 0.5},
    ),
    "warmup_exponential-no_warmup": (
        "warmup_exponential_decay_schedule",
        {"init_value": 9.0, "peak_value": 0.7, "warmup_steps": 0, "transition_steps": 10, "decay_rate": 0.5},
    ),
    "piecewise-unsorted": (
        "piecewise_constant_schedule",
        {"init_value": 1.0, "boundaries_and_scales": {30: 0.1, 0: 3.0, 10: 0.0}},
    ),
    "piecewise-empty": ("piecewise_constant_schedule", {"init_value": 1.0, "boundaries_and_scales": {}}),
    "interpolate-unsorted": (
        "piecewise_interpolate_schedule",
        {
            "interpolate_type": "linear",
            "init_value": 1.0,
            "boundaries_and_scales": {30: 0.1, 0: 3.0, 10: 0.5},
        },
    ),
    "interpolate-none": ("piecewise_interpolate_schedule", {"interpolate_type": "linear", "init_value": 1.0}),
    "linear_onecycle-two_phases": (
        "linear_onecycle_schedule",
        {"transition_steps": 20, "peak_value": 1.0, "pct_start": 0.4, "pct_final": 0.4},
    ),
    "linear_onecycle-short": ("linear_onecycle_schedule", {"transition_steps": 1, "peak_value": 1.0}),
    "cosine_onecycle-no_rise": (
        "cosine_onecycle_schedule",
        {"transition_steps": 20, "peak_value": 1.0, "pct_start": 0.0},
    ),
    "cosine_onecycle-no_fall": (
        "cosine_onecycle_schedule",
        {"transition_steps": 20, "peak_value": 1.0, "pct_start": 1.0},
    ),
    "join-from_zero": (
        "join_schedules",
        {"schedules": [s.constant_schedule(9.0), s.linear_schedule(0.0, 1.0, 30)], "boundaries": [0]},
    ),
    "join-one": ("join_schedules", {"schedules": [s.linear_schedule(0.0, 1.0, 30)], "boundaries": []}),
    "join-three": (
        "join_schedules",
        {
            "schedules": [s.constant_schedule(9.0), s.linear_schedule(0.0, 1.0, 5), s.constant_schedule(0.5)],
            "boundaries": [3, 20],
        },
    ),
}
CASES = {
    **examples(),
    **{name: Example(FACTORIES[factory], arguments) for name, (factory, arguments) in EDGES.items()},
}


def test_every_schedule_has_a_formula() -> None:
    assert set(FORMULAS) == set(FACTORIES)


@pytest.mark.parametrize("case", CASES)
def test_float64_formulas(case: str) -> None:
    example = CASES[case]
    with jax.enable_x64(True):
        expected = np.asarray([FORMULAS[example.name](int(c), **example.arguments) for c in COUNTS])
        np.testing.assert_allclose(example.make()(COUNTS), expected, rtol=1e-12, atol=1e-15)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(example.make()(COUNTS), expected, rtol=2e-6, atol=2e-7 * scale)


# What the peer does otherwise, or cannot do; the README lists it.
OTHERWISE = {"warmup-none", "warmup_cosine-no_peak", "linear_onecycle-two_phases", "cosine_onecycle-no_fall"}
OTHERWISE |= {"linear_onecycle-short", "join-from_zero"}


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, example in CASES.items()
        if case not in OTHERWISE
        and not example.arguments.get("endpoint")
        and hasattr(optax.schedules, example.name)
    ],
)
def test_optax_agrees(case: str) -> None:
    example = CASES[case]
    arguments = {name: value for name, value in example.arguments.items() if name != "endpoint"}
    if "cosine_kwargs" in arguments:
        arguments["cosine_kwargs"] = [
            {name: value for name, value in kwargs.items() if name != "endpoint"}
            for kwargs in arguments["cosine_kwargs"]
        ]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        peer = getattr(optax.schedules, example.name)(**arguments)
        expected = jax.vmap(lambda count: jnp.asarray(peer(count)))(jnp.asarray(COUNTS))
    ours = example.factory.function(**arguments)
    np.testing.assert_allclose(ours(COUNTS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_edges_are_exact_and_the_way_is_monotonic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high, low = (float(x) for x in np.sort(10.0 ** rng.uniform(-8, 2, 2))[::-1])
    n = int(rng.integers(2, 3000))
    counts = np.arange(3003)
    falling = [
        s.linear_schedule(high, low, n),
        s.polynomial_schedule(high, low, float(rng.uniform(0.2, 6)), n),
        s.warmup_cosine_decay_schedule(0.0, high, 0, n, low, float(rng.uniform(0.5, 3))),
        s.piecewise_interpolate_schedule("linear", high, {n: low / high}),
        s.piecewise_interpolate_schedule("cosine", high, {n: low / high}),
    ]
    for schedule in falling:
        # Compiled with the lengths known, a division may become a product with a rounded reciprocal.
        values = np.asarray(jax.jit(schedule)(counts))
        assert values[0] == np.float32(high), schedule
        np.testing.assert_allclose(values[n:], np.float32(low), rtol=2e-7, err_msg=repr(schedule))
        assert (np.diff(values) <= 2e-7 * values[1:]).all(), schedule
        assert (values >= low * (1 - 2e-7)).all(), schedule
    rising = np.asarray(s.linear_schedule(low, high, n)(counts))
    assert rising[0] == np.float32(low)
    assert (rising[n:] == np.float32(high)).all()
    assert (np.diff(rising) >= -2e-7 * rising[1:]).all()


@pytest.mark.parametrize("n", [10**6, 10**9, LAST])
def test_long_schedules_keep_their_digits(n: int) -> None:
    near = np.asarray([1, 2, 3, 10, 1001])
    early, late = near, n - near
    cases: list[tuple[Any, Callable[[Any], Any]]] = [
        (s.linear_schedule(0.0, 1.0, n), lambda c: c / n),
        (s.linear_schedule(1.0, 0.0, n), lambda c: (n - c) / n),
        (s.polynomial_schedule(1.0, 0.0, 2.0, n), lambda c: ((n - c) / n) ** 2),
        (s.polynomial_schedule(0.0, 1.0, 2.0, n), lambda c: -np.expm1(2 * np.log1p(-c / n))),
        (s.warmup_constant_schedule(0.0, 1.0, n), lambda c: c / n),
        (s.cosine_decay_schedule(1.0, n), lambda c: np.sin(np.pi / 2 * (n - c) / n) ** 2),
        (
            s.warmup_cosine_decay_schedule(1.0, 0.0, 0, n, 1.0),
            lambda c: np.sin(np.pi / 2 * c / n) ** 2,
        ),
    ]
    for schedule, formula in cases:
        for counts in (early, late):
            expected = formula(counts.astype(np.float64))
            np.testing.assert_allclose(schedule(counts), expected, rtol=2e-6, err_msg=repr(schedule))


def test_stairs_are_exact_at_large_counts() -> None:
    period = 2**24 + 3
    schedule = s.exponential_decay(1.0, period, 0.5, staircase=True)
    for k in (1, 2, 50, 127):
        assert schedule(k * period - 1) == 0.5 ** (k - 1)
        assert schedule(k * period) == 0.5**k
    piecewise = s.piecewise_constant_schedule(1.0, {2**30 + 1: 0.5, LAST: 0.5})
    assert [float(piecewise(c)) for c in (2**30, 2**30 + 1, LAST - 1, LAST)] == [1.0, 0.5, 0.5, 0.25]


def test_growth_ends_at_a_finite_number() -> None:
    schedule = s.exponential_decay(0.5, 1, 2.0)
    assert schedule(20) == 2.0**19
    assert np.isfinite(schedule(LAST))
    rates = jax.grad(lambda rate: s.exponential_decay(0.5, 1, rate, end_value=3.0)(LAST))(2.0)
    assert rates == 0


def test_positions_between_steps_lie_between_their_values() -> None:
    for name, example in examples().items():
        if example.arguments.get("staircase"):
            continue
        if example.name in ("piecewise_constant_schedule", "join_schedules", "sgdr_schedule"):
            continue
        made = example.make()
        left, middle, right = (np.asarray(made(c)) for c in (COUNTS, COUNTS + 0.5, COUNTS + 1))
        slack = 1e-5 * np.abs(left).max()
        inside = (middle >= np.minimum(left, right) - slack) & (middle <= np.maximum(left, right) + slack)
        assert inside.all(), name


def test_join_takes_any_function() -> None:
    seen = []

    def inverse_root(count: Any) -> Any:
        seen.append(count)
        return 1 / jnp.sqrt(count.astype(jnp.float32) + 1)

    schedule = s.join_schedules([lambda count: 2, inverse_root], [5])
    values = [float(schedule(c)) for c in range(9)]
    np.testing.assert_allclose(values, [2] * 5 + [1 / np.sqrt(k) for k in (1, 2, 3, 4)], rtol=1e-6)
    assert min(int(count) for count in seen) == 0
    assert schedule(3).dtype == np.float32
    np.testing.assert_allclose(jax.jit(schedule)(jnp.arange(9)), values, rtol=1e-6)


def test_join_asks_no_schedule_at_a_negative_count_so_gradients_stay_finite() -> None:
    def value(rate: Any) -> Any:
        decay = lambda count: rate * jnp.sqrt(count.astype(jnp.float32) + 1)  # noqa: E731
        return s.join_schedules([s.constant_schedule(rate), decay], [1000])(3)

    assert jax.grad(value)(0.5) == 1.0


def test_a_schedule_may_stand_for_a_number() -> None:
    envelope = s.linear_schedule(1.0, 0.0, 50)
    product = s.piecewise_constant_schedule(envelope, {10: 0.5})
    expected = np.asarray(envelope(COUNTS)) * np.where(COUNTS >= 10, 0.5, 1.0)
    np.testing.assert_allclose(product(COUNTS), expected, rtol=1e-6)
    assert "linear_schedule(1.0, 0.0, 50)" in repr(product)
    scaled = s.piecewise_interpolate_schedule("linear", 2.0, {10: envelope})
    np.testing.assert_allclose(scaled(COUNTS)[10:], 2 * np.asarray(envelope(COUNTS))[10:], rtol=1e-6)


def test_schedules_of_one_kind_share_one_compilation() -> None:
    compiled = []

    def listen(event: str, duration: float, **_: Any) -> None:
        compiled.append(event)

    count = jnp.int32(3)
    s.cosine_decay_schedule(0.1, 10)(count)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for k in range(1, 20):
            s.cosine_decay_schedule(0.1 * k, 10 + k, alpha=0.01 * k)(count)
        assert not compiled
        s.cosine_decay_schedule(0.1, 10)(jnp.zeros((7, 7), jnp.int32))
        assert compiled  # the control: another shape is another program
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", ["warmup_cosine_decay_schedule", "join_schedules"])
def test_a_value_lives_where_its_count_does(name: str) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    made = CASES[name].make()
    for value in (made(jax.device_put(jnp.int32(5), everywhere)), jax.jit(made, out_shardings=everywhere)(5)):
        assert value.sharding.is_equivalent_to(everywhere, 0)
        np.testing.assert_allclose(value, made(5), rtol=1e-6)


@pytest.mark.parametrize("n", [12, 1000])
def test_compiled_ends_are_exact(n: int) -> None:
    # 1 - n * (1 / n) in float32 is below 0 for these, and has no root.
    for schedule in (s.polynomial_schedule(0.05, 0.01, 2.5, n), s.polynomial_schedule(0.05, 0.01, 0.5, n)):
        assert jax.jit(schedule)(n) == np.float32(0.01)
        assert jax.jit(schedule)(n + 1) == np.float32(0.01)
