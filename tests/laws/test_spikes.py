"""Law 4 over many steps: outliers are forgotten, extremes never give NaN, and what is not finite shows.

Parameters are held, so that 200 gradients of any size test the rule and not the range of a float.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import FLOAT64_DEPARTURES, PARTS, build, over_all

import gradflow as gf
from gradflow._expressions._keys import expression_of
from laws.support import assert_finite, extras

STEPS, SPIKE, ELEMENT = 200, 10, ("kernel", 1)
SHAPES = {"kernel": (2, 3), "bias": (3,)}

Tree = dict[str, np.ndarray]


def ordinary() -> Tree:
    """Ordinary gradients, one for each step."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}


def disturbed(number: float) -> Tree:
    """Ordinary gradients, but for one number of one step."""
    gradients = ordinary()
    leaf, place = ELEMENT
    gradients[leaf][SPIKE].flat[place] = number
    return gradients


def with_one_step_of(size: float) -> Tree:
    """Ordinary gradients, but for one step whose numbers are all of this size."""
    gradients = ordinary()
    for leaf in gradients.values():
        leaf[SPIKE] = np.sign(leaf[SPIKE]) * size
    return gradients


def with_short_memory(tx: gf.GradientTransformation) -> gf.GradientTransformation:
    """The transformation with decays of 1/4, which forget 1e30 within a hundred steps."""
    numbers = {}
    for address, value in gf.addresses(tx).items():
        expression = expression_of(value)
        if expression is not None and expression.maker.kind == "transformation":
            for name in expression.maker.hyperparameters:
                number = expression.arguments[name]
                kind = expression.maker.parameters[name].annotation
                if str(kind) == "Decay" and isinstance(number, float) and number > 0.25:
                    numbers[f"{address}.{name}"] = 0.25
    return gf.replace(tx, numbers)


def held_parameters(dtype: Any) -> Tree:
    """Ordinary parameters."""
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def steps_of(tx: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The function from parameters and gradients to the updates of all steps and the state at the end."""

    def run(params: Any, gradients: Any) -> Any:
        def step(state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params, **extras(tx, params, grads))
            return state, updates

        state, updates = jax.lax.scan(step, tx.init(params), gradients)
        return updates, state

    return run


@functools.lru_cache(maxsize=2)
def trajectory(case: str, dtype: Any = np.float32) -> Callable[[Tree], tuple[Any, Any]]:
    """`steps_of` a listed case on parameters of one dtype."""
    params = held_parameters(dtype)
    run = jax.jit(functools.partial(steps_of(with_short_memory(build(case))), params))
    return lambda gradients: run({name: jnp.asarray(g, dtype) for name, g in gradients.items()})


@over_all("one huge gradient is forgotten", PARTS)
def test_one_huge_gradient_leaves_no_poison(case: str) -> None:
    """Every number that an undisturbed run updates at the end is updated here, too."""
    plain, _ = trajectory(case)(ordinary())
    updates, state = trajectory(case)(disturbed(1e30))
    assert_finite((updates, state))
    _, state = trajectory(case)(with_one_step_of(float(np.finfo(np.float32).max)))
    assert_finite(state)
    for moved, still in zip(jax.tree.leaves(plain), jax.tree.leaves(updates), strict=True):
        np.testing.assert_array_equal(np.any(still[-20:] != 0, axis=0), np.any(moved[-20:] != 0, axis=0))


@over_all("extreme gradients for 200 steps")
def test_extreme_gradients_for_many_steps_stay_finite(case: str) -> None:
    directions = {name: np.sign(g) for name, g in ordinary().items()}
    exponents = {name: np.random.default_rng(2).uniform(-45, 38, g.shape) for name, g in directions.items()}
    for size in (0.0, 1e-45, 1e-20, 1e19, 1e38):
        assert_finite(trajectory(case)({name: np.full_like(g, size) for name, g in directions.items()}))
        assert_finite(trajectory(case)({name: size * g for name, g in directions.items()}))
    assert_finite(trajectory(case)({name: g * 10 ** exponents[name] for name, g in directions.items()}))


@over_all("a gradient that is not finite shows")
def test_a_gradient_that_is_not_finite_shows(case: str) -> None:
    """Later updates are NaN, or are of their usual size: they do not shrink in silence."""
    plain, _ = trajectory(case)(ordinary())
    for number in (np.nan, np.inf, -np.inf):
        updates, _ = trajectory(case)(disturbed(number))
        for usual, found in zip(jax.tree.leaves(plain), jax.tree.leaves(updates), strict=True):
            usual, found = (np.abs(x[SPIKE + 1 :]).max(axis=0) for x in (usual, found))
            assert not np.any(found < 1e-3 * usual)


# Leaves in both narrow dtypes, so that one program shows both.
NARROW: dict[str, tuple[Any, tuple[int, ...]]] = {
    "kernel": (np.float16, (2, 3)),
    "brain": (jnp.bfloat16, (2, 3)),
    "bias": (np.float16, (3,)),
}
Choice = Callable[[np.ndarray, float, float], Any]
SIZES: dict[str, Choice] = {
    "zero": lambda g, least, largest: 0,
    "least": lambda g, least, largest: least,
    "300": lambda g, least, largest: 300,
    "a quarter of the largest": lambda g, least, largest: largest / 4,
    "largest": lambda g, least, largest: largest,
}


def narrow(choose: Choice) -> dict[str, jax.Array]:
    """What `choose` makes of ordinary gradients, and of the least and the largest number of their dtype."""
    rng, made = np.random.default_rng(0), {}
    for name, (dtype, shape) in NARROW.items():
        kind = jnp.finfo(dtype)
        limits = float(kind.smallest_subnormal), min(float(kind.max), 1e38)
        g = rng.normal(size=(STEPS, *shape))
        made[name] = jnp.asarray(np.broadcast_to(choose(g, *limits), g.shape), dtype)
    return made


def once(number: float) -> Choice:
    """Ordinary gradients, but for one number of one step, at most the dtype's largest."""

    def choose(g: np.ndarray, least: float, largest: float) -> np.ndarray:
        g[SPIKE].flat[1] = min(number, largest) if number > 0 else number
        return g

    return choose


@over_all("narrow gradients of any size")
def test_narrow_gradients_of_any_size_leave_no_poison(case: str) -> None:
    """The laws above in float16 and bfloat16. A number below their range is zero, so fewer may move."""
    tx = with_short_memory(build(case))
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, (dtype, shape) in NARROW.items()}

    run = jax.jit(functools.partial(steps_of(tx), params))
    usual, _ = run(narrow(lambda g, *_: g))
    assert any(np.any(np.asarray(u) != 0) for u in usual.values()) or case == "set_to_zero"
    assert_finite(run(narrow(once(1e38))))
    assert_finite(run(narrow(lambda g, *_: after_zeros(g))))
    for number in (np.nan, -np.inf):
        found, _ = run(narrow(once(number)))
        for name in NARROW:
            u, v = (np.abs(np.asarray(x[name], np.float32)[SPIKE + 1 :]).max(axis=0) for x in (usual, found))
            assert not np.any(v < 1e-3 * u)
    for size in SIZES.values():
        assert_finite(run(narrow(size)))
        assert_finite(run(narrow(lambda g, *limits, size=size: np.sign(g) * size(g, *limits))))
        assert_finite(
            run(narrow(lambda g, *limits, size=size: after_zeros(np.ones_like(g) * size(g, *limits))))
        )


def after_zeros(g: np.ndarray) -> np.ndarray:
    """Gradients whose first steps are zero."""
    g[:3] = 0
    return g


# What float32 takes a number for: itself, the largest one whose square is finite, also after it was halved
# by a stage before, or zero below its range.
LARGEST, LEAST = 2.0**60, float(np.finfo(np.float32).tiny)
REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "itself": lambda g: g,
    "2^60": lambda g: np.clip(g, -LARGEST, LARGEST),
    "2^61": lambda g: np.clip(g, -2 * LARGEST, 2 * LARGEST),
    "zero": lambda g: np.where(np.abs(g) < LEAST, 0, g),
}
# The steps whose numbers are measured by the largest one among them: before, during and after the spike.
WINDOWS = {"spike": (slice(SPIKE + 1), slice(SPIKE + 1, 150), slice(150, None))}


def gradients_by_size() -> dict[str, Tree]:
    """Gradients of one size each, as float32 holds them; the last have one number of 1e30 at one step."""
    usual = ordinary()
    signs = {name: np.sign(g) for name, g in usual.items()}
    made = {
        size: {name: float(size) * g for name, g in usual.items()} for size in ("1e-30", "1e-8", "1", "1e8")
    }
    made |= {size: {name: float(size) * g for name, g in signs.items()} for size in ("1e-45", "1e37")}
    made["spike"] = disturbed(1e30)
    return {size: {name: np.float32(g) for name, g in tree.items()} for size, tree in made.items()}


BY_SIZE = gradients_by_size()


def distance(actual: Any, exact: Any, steps: slice) -> float:
    """The largest difference of two trajectories at these steps, as a part of their leaf's largest update."""
    worst = 0.0
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(exact), strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            a, e = (np.asarray(x, np.float32).astype(np.float64)[steps] for x in (a, e))
            error = np.where((a == e) | (np.isnan(a) & np.isnan(e)), 0, np.abs(a - e))
        size = np.abs(e[np.isfinite(e)]).max(initial=0) + 1e-34  # below that float32 rounds coarsely
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()) / size)
    return worst


def departs(found: Any, exact: list[Any], size: str) -> bool:
    """Whether a trajectory is none of the exact ones. An outlier is bounded in states, not where it is."""
    windows = WINDOWS.get(size, (slice(None),))
    return max(min(distance(found, each, window) for each in exact) for window in windows) > 2e-3


@over_all("200 steps as in float64")
def test_200_steps_of_every_size_are_those_of_float64(case: str) -> None:
    """Departures are data with reasons; one that is mended must be taken out."""
    exact: dict[str, list[Any]] = {}
    with jax.enable_x64(True):
        for size, gradients in BY_SIZE.items():
            seen: list[Tree] = []
            for change in REFERENCES.values():
                changed = {name: change(g.astype(np.float64)) for name, g in gradients.items()}
                if not any(all(np.array_equal(changed[n], other[n]) for n in SHAPES) for other in seen):
                    seen.append(changed)
            found = (trajectory(case, np.float64)(changed)[0] for changed in seen)
            exact[size] = [jax.tree.map(np.asarray, updates) for updates in found]
    departing = set()
    for size, gradients in BY_SIZE.items():
        actual, _ = trajectory(case)(gradients)
        if departs(actual, exact[size], size):
            departing.add(size)
    assert departing == FLOAT64_DEPARTURES.get(case, set())


COMPOSITIONS: dict[str, Callable[[], Any]] = {
    "adam + trust ratio": lambda: gf.chain(gf.scale_by_adam(), gf.scale_by_trust_ratio(), gf.scale(-0.01)),
    "nadamw + trust ratio": lambda: gf.chain(gf.nadamw(1.0), gf.scale_by_trust_ratio(), gf.scale(0.01)),
    "centred rmsprop + momentum": lambda: gf.rmsprop(0.001, centered=True, momentum=0.9),
    "deviation + trace": lambda: gf.chain(gf.scale_by_stddev(), gf.trace(0.9), gf.scale(-0.001)),
    "moments in float16": lambda: gf.adamw(0.001, mu_dtype=jnp.float16),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions_stay_finite_in_every_precision(name: str, dtype: Any) -> None:
    """Sizes that the dtype holds, alone and after gradients of zero."""
    tx = COMPOSITIONS[name]()
    params = {name: jnp.ones(shape, dtype) for name, shape in SHAPES.items()}

    @jax.jit
    def run(gradients: Any) -> Any:
        def step(carry: Any, grads: Any) -> Any:
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (gf.apply_updates(params, updates), state), updates

        return jax.lax.scan(step, (params, tx.init(params)), gradients)

    largest = float(jnp.finfo(dtype).max) / 4
    for size in (0.0, 1e-45, 1e-20, 1e-7, 1.0, min(1e19, largest), min(1e38, largest)):
        for zeros in (0, 3):
            gradients = {name: size * np.sign(g) for name, g in ordinary().items()}
            for g in gradients.values():
                g[:zeros] = 0
            (_, state), updates = run({name: jnp.asarray(g, dtype) for name, g in gradients.items()})
            assert_finite((updates, state))
