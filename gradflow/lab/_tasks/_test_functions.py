"""Functions of two variables, on which `trajectory` draws paths."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Corner = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
    """A function of two variables, and how it is drawn.

    - `function(xy) -> number` of an array of shape (2,).
    - `start`: where paths begin. `minima`: the known minima, which are marked.
    - `window`: ((left, right), (bottom, top)); None for a window around the paths.
    - `noise`: the standard deviation of the noise that is added to each entry of the gradient at every step.
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    start: Corner
    minima: tuple[Corner, ...] = ()
    window: tuple[Corner, Corner] | None = None
    noise: float = 0.0
    lowest: float = 0.0  # the value at the minima, from which the picture measures heights


def _rosenbrock(xy: jax.Array) -> jax.Array:
    x, y = xy
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(xy: jax.Array) -> jax.Array:
    x, y = xy
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _saddle(xy: jax.Array) -> jax.Array:
    """A saddle at the origin: paths descend to it along x and leave it along y."""
    x, y = xy
    return 0.5 * x**2 + 0.25 * y**4 - 0.5 * y**2


def _ravine(xy: jax.Array) -> jax.Array:
    """A quadratic of condition 100 whose axes are rotated."""
    x, y = xy
    along, across = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
    return 0.05 * along**2 + 5 * across**2


def _himmelblau(xy: jax.Array) -> jax.Array:
    x, y = xy
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _quadratic(xy: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.asarray([1.0, 10.0], xy.dtype) * xy**2)


_HIMMELBLAU = ((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127))

LANDSCAPES = {
    landscape.name: landscape
    for landscape in (
        Landscape("rosenbrock", _rosenbrock, (-1.2, 1.0), ((1.0, 1.0),), ((-2.0, 2.0), (-1.0, 2.5))),
        Landscape("beale", _beale, (1.0, 1.5), ((3.0, 0.5),), ((-1.0, 4.5), (-1.5, 2.0))),
        Landscape(
            "saddle",
            _saddle,
            (1.5, 0.01),
            ((0.0, 1.0), (0.0, -1.0)),
            ((-1.0, 2.0), (-1.6, 1.6)),
            lowest=-0.25,
        ),
        Landscape("ravine", _ravine, (-7.0, -2.5), ((0.0, 0.0),), ((-8.5, 3.0), (-5.5, 3.0))),
        Landscape("himmelblau", _himmelblau, (0.0, 0.0), _HIMMELBLAU, ((-5.5, 5.5), (-5.5, 5.5))),
        Landscape("noisy_quadratic", _quadratic, (-4.0, 2.0), ((0.0, 0.0),), ((-5.0, 3.0), (-2.5, 2.5)), 2.0),
    )
}
