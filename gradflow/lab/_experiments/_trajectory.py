"""`trajectory`: records the paths of optimizers on functions of two variables."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import checked
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe, unknown
from gradflow._expressions._printing import show
from gradflow._training._step import make_step
from gradflow.lab._arguments import COUNT, RATES, SEED
from gradflow.lab._candidates._candidates import Candidate, candidates, check_rates
from gradflow.lab._experiments._plan import check_whole_number
from gradflow.lab._experiments._program import CannotRunError
from gradflow.lab._results._trajectories import Path, Trajectories
from gradflow.lab._tasks._test_functions import LANDSCAPES, Landscape
from gradflow.matrices._resolve import recording_matrices
from gradflow.wrappers import eval_params

DEFAULTS = ("sgd", "momentum", "rmsprop", "adam", "lion", "lbfgs")
_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
_ARRIVED = 1e-6  # of the height at the start; lower values look the same in the picture
_THROWN = 10  # times the height at the start; such a path leaves the picture
_FINE = 121  # points of the surface along each side


@checked(start=RATES | None, steps=COUNT, learning_rates=RATES | None, seed=SEED)
def trajectory(
    optimizers: Any = None,
    function: str | Landscape | Callable[[jax.Array], Any] = "rosenbrock",
    *,
    start: Sequence[float] | None = None,
    steps: int = 200,
    learning_rates: Iterable[float] | None = None,
    seed: int = 0,
) -> Trajectories:
    """Records the paths of optimizers on a function of two variables.

        trajectory(["momentum", "adam", "adam(0.1, b1=0.5)"], "beale").plot()

    Args:
      optimizers: as in `compare`. A name, or a function of `learning_rate`, is tried at many rates and its
        path at the best is shown; a transformation, or its expression as text, runs unchanged.
      function: "rosenbrock", "beale", "saddle", "ravine", "himmelblau", "noisy_quadratic", a `Landscape`, or
        your own function of an array of shape (2,), which needs a `start`.
      start: where paths begin instead of the function's own start.
      steps: the number of steps.
      learning_rates: the rates to try; by default from 1e-4 to 10, half a decade apart.
      seed: the seed of the noise, which is the same for all optimizers.

    For optimizers that average the parameters the path of the averages is shown. A point is not a matrix: of
    muon and its kin the part for vectors moves it, and the table and the picture say so.
    """
    landscape = _landscape(function, start)
    check_whole_number("trajectory", "steps", steps, 1)
    rates = check_rates("trajectory", learning_rates) or _RATES
    found = candidates(list(DEFAULTS) if optimizers is None else optimizers, rates, caller="trajectory")
    noise = landscape.noise * np.random.default_rng(seed).standard_normal((steps, 2)).astype(np.float32)
    paths = [_path(candidate, landscape, jnp.asarray(noise)) for candidate in found]
    (left, right), (bottom, top) = _frame(landscape, paths)
    x, y = np.linspace(left, right, _FINE), np.linspace(bottom, top, _FINE)
    points = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), jnp.float32)
    surface = jax.jit(jax.vmap(jax.vmap(landscape.function)))(points)
    return Trajectories(
        function=landscape.name,
        steps=steps,
        noise=landscape.noise,
        start=list(landscape.start),
        minima=[list(point) for point in landscape.minima],
        x=x.tolist(),
        y=y.tolist(),
        surface=np.asarray(surface, float).tolist(),
        paths=paths,
    )


def _landscape(function: Any, start: Any) -> Landscape:
    if isinstance(function, str):
        if function not in LANDSCAPES:
            raise unknown("function", function, LANDSCAPES)
        function = LANDSCAPES[function]
    elif not isinstance(function, Landscape):
        if not callable(function):
            raise TypeError(
                "trajectory: argument 'function' must be a name, a Landscape, or a function of xy; "
                f"got {describe(function)}"
            )
        if start is None:
            raise TypeError("trajectory: argument 'start' must be (x, y) for your own function; got None")
        function = Landscape(getattr(function, "__name__", "your own"), function, (0.0, 0.0))
    if start is not None:
        point = tuple(float(value) for value in start)
        if len(point) != 2 or not all(map(math.isfinite, point)):
            raise ValueError(f"trajectory: argument 'start' must be two finite numbers; got {start!r}")
        function = dataclasses.replace(function, start=point)
    value = jax.eval_shape(function.function, jax.ShapeDtypeStruct((2,), jnp.float32))
    if getattr(value, "shape", None) != ():
        raise TypeError(
            "trajectory: argument 'function' must return one number for an array of shape (2,); "
            f"got {describe(value)}"
        )
    return function


def _path(candidate: Candidate, landscape: Landscape, noise: jax.Array) -> Path:
    rates = jnp.asarray([1.0 if rate is None else rate for rate in candidate.rates], jnp.float32)
    begin = jnp.asarray(landscape.start, jnp.float32)
    try:
        points, values = jax.jit(jax.vmap(functools.partial(_run, candidate, landscape), (0, None, None)))(
            rates, begin, noise
        )
    except (TypeError, ValueError) as error:
        raise CannotRunError(
            f"trajectory: argument 'optimizers' must hold optimizers that run on the function; "
            f"got '{candidate.name}', which cannot run here: {error}"
        ) from error
    curves = np.asarray(values, float)
    lowest = float(np.min(curves[np.isfinite(curves)], initial=np.inf))
    best = min(range(len(rates)), key=lambda i: _sort_key(curves[i], lowest))
    rate = candidate.rates[best]
    diverged = not np.isfinite(curves[best]).all() or curves[best][-1] > curves[best][0]
    return Path(
        name=candidate.name,
        expression=show(candidate.build(rate)),
        learning_rate=rate,
        points=np.asarray(points[best], float).tolist(),
        values=curves[best].tolist(),
        diverged=bool(diverged),
        as_for_vectors=_is_for_matrices(candidate.build(rate)),
    )


def _is_for_matrices(tx: GradientTransformation) -> bool:
    """Whether a stage takes a matrix of two by two as a matrix: a point is another optimizer's part there."""
    with recording_matrices() as taken:
        jax.eval_shape(tx.init, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    return bool(taken)


def _run(
    candidate: Candidate, landscape: Landscape, rate: jax.Array, begin: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def loss(xy: jax.Array, push: jax.Array) -> jax.Array:
        return jnp.asarray(landscape.function(xy)) + jnp.vdot(push, xy)

    tx = candidate.build(rate)
    update = make_step(loss, tx)

    def step(carry: Any, push: jax.Array) -> Any:
        xy, state, _ = update(*carry, push)
        return (xy, state), eval_params(state, xy)

    _, points = jax.lax.scan(step, (begin, tx.init(begin)), noise)
    points = jnp.concatenate([begin[None], points])
    return points, jax.vmap(landscape.function)(points)


def _sort_key(values: np.ndarray, lowest: float) -> tuple[bool, float, int]:
    """The sort key of rates: the mean of the last tenth of a path, then the steps until it arrives.

    A path that rises far above its start comes after all others.
    """
    if not np.isfinite(values).all():
        return True, math.inf, 0
    start = float(values[0]) - lowest
    thrown = float(values.max()) - lowest > _THROWN * start
    arrived = lowest + _ARRIVED * start
    end = max(float(values[-max(1, len(values) // 10) :].mean()), arrived)
    return thrown, end, int(np.argmax(values <= arrived)) if end == arrived else 0


def _frame(landscape: Landscape, paths: Sequence[Path]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The landscape's own window, grown to show the start and the paths that stay finite.

    It grows to at most three times its size for paths, and as far as needed for the start.
    """
    if landscape.window is None:
        return _window(paths)
    low, high = np.asarray(landscape.window, float).T
    size = high - low
    inside = [p for path in paths if not path.diverged for p in path.points]
    points = np.clip(np.asarray(inside).reshape(-1, 2), low - size, high + size)
    points = np.concatenate([points, [landscape.start]])
    pad = 0.05 * size
    left, bottom = np.where(points.min(axis=0) < low, points.min(axis=0) - pad, low).tolist()
    right, top = np.where(points.max(axis=0) > high, points.max(axis=0) + pad, high).tolist()
    return (left, right), (bottom, top)


def _window(paths: Sequence[Path]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns a window around the paths that stay finite, or around the start."""
    inside = [p for path in paths if not path.diverged for p in path.points] or [paths[0].points[0]]
    low, high = np.min(inside, axis=0), np.max(inside, axis=0)
    pad = 0.2 * np.maximum(high - low, 0.25 * max(float((high - low).max()), 1e-3))
    (left, bottom), (right, top) = (low - pad).tolist(), (high + pad).tolist()
    return (left, right), (bottom, top)
