"""SM3: Adagrad that stores one number per row and column in place of one per element."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Fraction, NonNegative, Rate
from gradflow._kernel_hints._placement import written_together
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import bounded, bounded_square, largest, safe_sqrt, saturated
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import first_moment, second_moment
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms import scale_by_learning_rate
from gradflow.tree._paths import is_none


class ScaleBySM3State(NamedTuple):
    """For each leaf a list of bounds along each of its axes, and the momentum."""

    mu: Square
    nu: Mean


def sm3_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The complement of the momentum's decay, and the weight of a new square, which is 1 for a plain sum."""
    return {"c1": 1 - b1, "gain": jnp.where(b2 < 1, 1 - b2, jnp.ones_like(b2))}


def sm3_rule(g: jax.Array, nu: jax.Array, *bounds_and_s: Any) -> tuple[jax.Array, ...]:
    """Anil et al. 2019, Algorithm SM3-II, its cover the rows, columns, ... of a tensor."""
    *mu, s = bounds_and_s
    if g.ndim > 1:
        mu = [jnp.expand_dims(m, _others(axis, g.ndim)) for axis, m in enumerate(mu)]
    accumulated = s.gain * bounded_square(g) + s.b2 * saturated(functools.reduce(jnp.minimum, mu))
    nu = s.b1 * nu + s.c1 * (bounded(g) / safe_sqrt(accumulated + s.eps))
    return nu, nu, *_bounds(accumulated)


def _bounds(accumulated: jax.Array) -> list[jax.Array]:
    """The largest accumulators along each axis; a vector or a scalar is its own bound."""
    if accumulated.ndim < 2:
        return [accumulated]
    axes = (_others(axis, accumulated.ndim) for axis in range(accumulated.ndim))
    return [largest(accumulated, others) for others in axes]


def _others(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(other for other in range(ndim) if other != axis)


@transformation(leaves="real")
def scale_by_sm3(b1: Decay = 0.9, b2: Fraction = 1.0, eps: NonNegative = 1e-8) -> Pair:
    """Averages gradients, each divided by a bound on the root of the sum of squares.

        a[i, j] = min(mu[0][i], mu[1][j]) + g[i, j]^2
        mu[0][i] = max over j of a[i, j],  mu[1][j] = max over i of a[i, j]
        nu = b1 * nu + (1 - b1) * g / sqrt(a + eps)
        u = nu

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: below 1 the sum of squares becomes a decaying average, `b2 * min(...) + (1 - b2) * g^2`; in
        [0, 1].
      eps: added inside the root, >= 0.

    A tensor of more axes has bounds along each; a vector has its own sum, as in Adagrad. Raises ValueError
    inside `shard_map` where leaves differ along an axis, because their rows are not whole.
    Source: Anil et al. 2019, arXiv:1901.11150.
    """

    def init(params: Params) -> OptState:
        # Without the barrier XLA folds the maxima of constants at compile time, element by element.
        squares = jax.lax.optimization_barrier(second_moment(params))
        return ScaleBySM3State(jax.tree.map(_bounds, squares), first_moment(params))

    def update(
        updates: Updates, state: ScaleBySM3State, params: Params | None = None
    ) -> tuple[Updates, ScaleBySM3State]:
        check_like("updates", updates, "state", state.nu)
        refuse_varying("a maximum", [g for g in jax.tree.leaves(updates) if g.ndim > 1])
        structure: Any
        grads, structure = jax.tree.flatten(updates, is_leaf=is_none)
        new = []
        for g, nu, mu in zip(grads, *map(structure.flatten_up_to, (state.nu, state.mu)), strict=True):
            if g is None:
                new.append((None, nu, mu))
                continue
            u, nu, *mu = leafwise(sm3_rule, (g, nu, *mu), sm3_scalars, shapes=False, b1=b1, b2=b2, eps=eps)
            new.append((u, nu, mu))
        bounds = [bound for u, _, mu in new if u is not None and u.ndim > 1 for bound in mu]
        written = iter(written_together(bounds))
        new = [(u, nu, mu if u is None or u.ndim < 2 else [next(written) for _ in mu]) for u, nu, mu in new]
        u, nu, mu = (structure.unflatten([leaf[k] for leaf in new]) for k in range(3))
        return u, ScaleBySM3State(mu, nu)

    return init, update


@transformation
def sm3(learning_rate: Rate, momentum: Decay = 0.9) -> GradientTransformation:
    """SM3: `scale_by_sm3`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule.
      momentum: decay of the average of quotients, in [0, 1).

    Source: Anil et al. 2019, arXiv:1901.11150.
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))
