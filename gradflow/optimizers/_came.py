"""CAME: Adafactor with a momentum that is trusted where it agrees with the gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._math import abs_sq, bounded, bounded_square, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByCameState(NamedTuple):
    """Steps taken, the momentum, averages of squared gradients by rows and columns, and the same of squared
    residuals. For a vector `v_row` has an average for every element; what it has no use for is one zero."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    v_row: Square
    v_col: Square
    residual_row: Square
    residual_col: Square


def came_scalars(b1: jax.Array, b2: jax.Array, b3: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements."""
    return {"c1": 1 - b1, "c2": 1 - b2, "c3": 1 - b3}


def _mean(x: jax.Array, axis: int) -> jax.Array:
    """The mean along an axis, finite where all of `x` is."""
    return jnp.sum(x * (1 / max(x.shape[axis], 1)), axis=axis)


def _divide(x: jax.Array, row: jax.Array, col: jax.Array) -> jax.Array:
    """`x / sqrt(row * col / mean(row))`, without a quotient that vanishes."""
    by_row = jnp.expand_dims(1 / safe_sqrt(row), -1)
    mean = jnp.expand_dims(safe_sqrt(jnp.expand_dims(_mean(row, -1), -1)), -1)
    return x * by_row * (mean / jnp.expand_dims(safe_sqrt(col), -2))


def came_rule(
    g: jax.Array,
    mu: jax.Array,
    v_row: jax.Array,
    v_col: jax.Array,
    residual_row: jax.Array,
    residual_col: jax.Array,
    s: Any,
) -> tuple[jax.Array, ...]:
    """Luo et al. 2023, Algorithm 2; a vector has neither factors nor a confidence."""
    square = bounded_square(g) + s.eps
    factored = g.ndim > 1
    if factored:
        v_row = s.b2 * v_row + s.c2 * _mean(square, -1)
        v_col = s.b2 * v_col + s.c2 * _mean(square, -2)
        u = _divide(bounded(g), v_row, v_col)
    else:
        v_row = s.b2 * v_row + s.c2 * square
        u = bounded(g) / safe_sqrt(v_row)
    rms = safe_sqrt(jnp.sum(abs_sq(u)) / max(u.size, 1))
    u = u / jnp.maximum(rms / s.clipping_threshold, 1)
    mu = s.b1 * mu + s.c1 * u
    if not factored:
        return mu, mu, v_row, jnp.copy(v_col), jnp.copy(residual_row), jnp.copy(residual_col)
    residual = abs_sq(u - mu) + s.eps_residual
    residual_row = s.b3 * residual_row + s.c3 * _mean(residual, -1)
    residual_col = s.b3 * residual_col + s.c3 * _mean(residual, -2)
    return _divide(mu, residual_row, residual_col), mu, v_row, v_col, residual_row, residual_col


@transformation
def scale_by_came(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    eps: Positive = 1e-30,
    eps_residual: Positive = 1e-16,
    clipping_threshold: Positive = 1.0,
    mu_dtype: Any = None,
) -> Pair:
    """Divides by factored second moments, averages, and divides by factored moments of what that changed.

        v = factors of average(b2, |g|^2 + eps),  u = g / sqrt(v)
        u = u / max(1, rms(u) / clipping_threshold)
        mu = b1 * mu + (1 - b1) * u
        r = factors of average(b3, |u - mu|^2 + eps_residual)
        u = mu / sqrt(r)                                     u = mu for vectors

    Factors are the means over the last axis and over the last but one, as in `scale_by_factored_rms`.

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moments, in [0, 1).
      b3: decay of the residuals, in [0, 1).
      eps: added to squares, > 0.
      eps_residual: added to squares of residuals, > 0.
      clipping_threshold: largest root mean square of a leaf, > 0.
      mu_dtype: dtype of the momentum; the parameters' by default.

    Raises ValueError inside `shard_map` where a leaf is a piece. Source: Luo et al. 2023, arXiv:2307.02047.
    """

    def init(params: Params) -> OptState:
        def parts(p: Any) -> tuple[Any, ...]:
            zeros = tree.zeros_like(p, at_least_float32(real_dtype(p.dtype)))
            if p.ndim < 2:
                unused = [zero_scalar(p, zeros.dtype).reshape(1) for _ in range(3)]
                return zeros, *unused
            return tuple(jnp.sum(zeros, axis=axis) for axis in (-1, -2, -1, -2))

        leaves, structure = jax.tree.flatten(params)
        made = [parts(p) for p in leaves]
        columns = (jax.tree.unflatten(structure, [m[k] for m in made]) for k in range(4))
        return ScaleByCameState(zero_scalar(params), first_moment(params, mu_dtype), *columns)

    def update(
        updates: Updates, state: ScaleByCameState, params: Params | None = None
    ) -> tuple[Updates, ScaleByCameState]:
        refuse_varying("a mean", updates)
        check_like("updates", updates, "state", state.mu)
        u, *new = leafwise(
            came_rule, (updates, *state[1:]), came_scalars, shapes=False,
            b1=b1, b2=b2, b3=b3, eps=eps, eps_residual=eps_residual, clipping_threshold=clipping_threshold,
        )  # fmt: skip
        return u, ScaleByCameState(increment(state.count), *new)

    return init, update


@transformation
def came(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """CAME: `scale_by_came`, decoupled weight decay, the learning rate; the authors use 2e-4.

    Arguments as in `scale_by_came` and `adamw`. Source: Luo et al. 2023, arXiv:2307.02047.
    """
    return chain(
        scale_by_came(b1, b2, b3, mu_dtype=mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
