"""Problems with constraints of Hock and Schittkowski (1981), with their minima and multipliers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf


class Constrained(NamedTuple):
    """`equality = 0`, `inequality <= 0`, bounds, and the solution; multipliers of equalities come first."""

    loss: Callable[[Any], jax.Array]
    start: Any
    value: float
    solution: Any
    multipliers: Any
    equality: Callable[[Any], jax.Array] | None = None
    inequality: Callable[[Any], jax.Array] | None = None
    bounds: Any = None

    def solve(self, start: jax.Array, **options: Any) -> gf.ConstrainedResult:
        """The result of `minimize_constrained`."""
        return gf.minimize_constrained(
            self.loss,
            start,
            equality=self.equality,
            inequality=self.inequality,
            bounds=self.bounds,
            **options,
        )

    @property
    def equalities(self) -> int:
        """The number of equalities."""
        return 0 if self.equality is None else int(np.size(self.equality(jnp.asarray(self.start))))

    def multipliers_of(self, result: gf.ConstrainedResult) -> Any:
        """All multipliers as one vector."""
        both = (result.equality_multipliers, result.inequality_multipliers)
        return np.concatenate([np.ravel(part) for part in both if part is not None])

    def lagrangian(self, x: Any, result: gf.ConstrainedResult) -> jax.Array:
        """The loss plus the constraints, each times its multiplier."""
        value = self.loss(x)
        pairs = (
            (self.equality, result.equality_multipliers),
            (self.inequality, result.inequality_multipliers),
        )
        for function, multiplier in pairs:
            if function is not None:
                value = value + jnp.sum(multiplier * function(x))
        return value


def _hs43(x: Any) -> jax.Array:
    a, b, c, d = x
    return jnp.stack(
        [
            a**2 + b**2 + c**2 + d**2 + a - b + c - d - 8,
            a**2 + 2 * b**2 + c**2 + 2 * d**2 - a - d - 10,
            2 * a**2 + b**2 + c**2 + 2 * a - b - d - 5,
        ]
    )


PROBLEMS = {
    "HS7": Constrained(
        lambda x: jnp.log(1 + x[0] ** 2) - x[1],
        [2.0, 2.0], -(3**0.5), [0, 3**0.5], [1 / (2 * 3**0.5)],
        equality=lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,
    ),
    "HS10": Constrained(
        lambda x: x[0] - x[1],
        [-10.0, 10.0], -1.0, [0, 1], [0.5],
        inequality=lambda x: 3 * x[0] ** 2 - 2 * x[0] * x[1] + x[1] ** 2 - 1,
    ),
    "HS12": Constrained(
        lambda x: x[0] ** 2 / 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
        [0.0, 0.0], -30.0, [2, 3], [0.5],
        inequality=lambda x: 4 * x[0] ** 2 + x[1] ** 2 - 25,
    ),
    "HS14": Constrained(
        lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
        [2.0, 2.0], 9 - 2.875 * 7**0.5, [(7**0.5 - 1) / 2, (7**0.5 + 1) / 4], [1.59449111, 1.84659143],
        equality=lambda x: x[0] - 2 * x[1] + 1,
        inequality=lambda x: x[0] ** 2 / 4 + x[1] ** 2 - 1,
    ),
    "HS35": Constrained(
        lambda x: 9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2
        + 2 * x[0] * x[1] + 2 * x[0] * x[2],
        [0.5, 0.5, 0.5], 1 / 9, [4 / 3, 7 / 9, 4 / 9], [2 / 9],
        inequality=lambda x: x[0] + x[1] + 2 * x[2] - 3,
        bounds=(0.0, None),
    ),
    "HS39": Constrained(
        lambda x: -x[0],
        [2.0, 2.0, 2.0, 2.0], -1.0, [1, 1, 0, 0], [-1, -1],
        equality=lambda x: jnp.stack([x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2]),
    ),
    "HS40": Constrained(
        lambda x: -x[0] * x[1] * x[2] * x[3],
        [0.8, 0.8, 0.8, 0.8], -0.25,
        [2 ** (-1 / 3), 2**-0.5, 2 ** (-11 / 12), 2**-0.25], [0.5, -(2 ** (-13 / 12)), 2**-1.5],
        equality=lambda x: jnp.stack(
            [x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]]
        ),
    ),
    "HS43": Constrained(
        lambda x: x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2
        - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        [0.0, 0.0, 0.0, 0.0], -44.0, [0, 1, 2, -1], [1, 0, 2],
        inequality=_hs43,
    ),
    "HS71": Constrained(
        lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
        [1.0, 5.0, 5.0, 1.0], 17.0140172892, [1, 4.7429996, 3.8211500, 1.3794083], [0.16146857, 0.55229366],
        equality=lambda x: jnp.sum(x**2) - 40,
        inequality=lambda x: 25 - jnp.prod(x),
        bounds=(1.0, 5.0),
    ),
}  # fmt: skip
