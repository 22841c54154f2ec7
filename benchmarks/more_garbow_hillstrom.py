"""Twenty problems of More, Garbow & Hillstrom 1981, "Testing Unconstrained Optimization Software".

Each is a sum of squared residuals and its standard start. The sizes of those that may have any are small.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Vector = Any


class Problem(NamedTuple):
    """The residuals as a function of the parameters, and where it starts."""

    residuals: Callable[[Vector], Vector]
    start: np.ndarray

    def loss(self, x: Vector) -> Vector:
        """The sum of squared residuals."""
        return jnp.sum(self.residuals(x) ** 2)


def _rosenbrock(x: Vector) -> Vector:
    return jnp.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def _freudenstein_roth(x: Vector) -> Vector:
    a, b = x
    return jnp.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def _powell_badly_scaled(x: Vector) -> Vector:
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def _brown_badly_scaled(x: Vector) -> Vector:
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def _beale(x: Vector) -> Vector:
    return jnp.asarray([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** jnp.arange(1.0, 4.0))


def _jennrich_sampson(x: Vector) -> Vector:
    i = jnp.arange(1.0, 11.0)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def _helical_valley(x: Vector) -> Vector:
    turn = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def _bard(x: Vector) -> Vector:
    y = jnp.asarray([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39])
    u = jnp.arange(1.0, 16.0)
    return y - (x[0] + u / ((16 - u) * x[1] + jnp.minimum(u, 16 - u) * x[2]))


def _gaussian(x: Vector) -> Vector:
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989]
    t = (8 - jnp.arange(1.0, 16.0)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - jnp.asarray(half + half[-2::-1])


def _box(x: Vector) -> Vector:
    t = 0.1 * jnp.arange(1.0, 11.0)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def _powell_singular(x: Vector) -> Vector:
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return jnp.concatenate([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def _wood(x: Vector) -> Vector:
    a, b, c, d = x
    valleys = [10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c]
    return jnp.stack([*valleys, 10**0.5 * (b + d - 2), 10**-0.5 * (b - d)])


def _kowalik_osborne(x: Vector) -> Vector:
    y = jnp.asarray([0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
    u = jnp.asarray([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def _brown_dennis(x: Vector) -> Vector:
    t = jnp.arange(1.0, 21.0) / 5
    return (x[0] + t * x[1] - jnp.exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def _biggs(x: Vector) -> Vector:
    t = 0.1 * jnp.arange(1.0, 14.0)
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


def _watson(x: Vector) -> Vector:
    t, j = jnp.arange(1.0, 30.0)[:, None] / 29, jnp.arange(float(x.size))
    slope = jnp.sum(j[1:] * x[1:] * t ** (j[1:] - 1), axis=1)
    rest = slope - jnp.sum(x * t**j, axis=1) ** 2 - 1
    return jnp.concatenate([rest, x[:1], (x[1] - x[0] ** 2 - 1)[None]])


def _penalty(x: Vector) -> Vector:
    return jnp.concatenate([1e-5**0.5 * (x - 1), (jnp.sum(x**2) - 0.25)[None]])


def _variably_dimensioned(x: Vector) -> Vector:
    whole = jnp.sum(jnp.arange(1.0, x.size + 1.0) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([whole, whole**2])])


def _broyden_tridiagonal(x: Vector) -> Vector:
    ends = jnp.concatenate([jnp.zeros(1), x, jnp.zeros(1)])
    return (3 - 2 * x) * x - ends[:-2] - 2 * ends[2:] + 1


PROBLEMS: dict[str, Problem] = {
    name: Problem(residuals, np.asarray(start, float))
    for name, residuals, start in [
        ("Rosenbrock", _rosenbrock, [-1.2, 1]),
        ("Freudenstein and Roth", _freudenstein_roth, [0.5, -2]),
        ("Powell badly scaled", _powell_badly_scaled, [0, 1]),
        ("Brown badly scaled", _brown_badly_scaled, [1, 1]),
        ("Beale", _beale, [1, 1]),
        ("Jennrich and Sampson", _jennrich_sampson, [0.3, 0.4]),
        ("helical valley", _helical_valley, [-1, 0, 0]),
        ("Bard", _bard, [1, 1, 1]),
        ("Gaussian", _gaussian, [0.4, 1, 0]),
        ("Box three-dimensional", _box, [0, 10, 20]),
        ("Powell singular, 20", _powell_singular, [3, -1, 0, 1] * 5),
        ("Wood", _wood, [-3, -1, -3, -1]),
        ("Kowalik and Osborne", _kowalik_osborne, [0.25, 0.39, 0.415, 0.39]),
        ("Brown and Dennis", _brown_dennis, [25, 5, -5, -1]),
        ("Biggs EXP6", _biggs, [1, 2, 1, 1, 1, 1]),
        ("Watson, 6", _watson, [0] * 6),
        ("Rosenbrock, 20", _rosenbrock, [-1.2, 1] * 10),
        ("penalty I, 10", _penalty, range(1, 11)),
        ("variably dimensioned, 10", _variably_dimensioned, 1 - np.arange(1, 11) / 10),
        ("Broyden tridiagonal, 10", _broyden_tridiagonal, [-1] * 10),
    ]
}
