"""Penalties that act on groups of numbers: rows, whole leaves, matrices, neighbors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow.proximals._penalty import PenaltyRule, Weight, like, penalty, shrunk


@penalty
def group_lasso_penalty(weight: Weight, axis: Any = None) -> PenaltyRule:
    """The sum of the norms of groups: a group becomes zero as a whole.

        amount = weight * sum over groups of norm(p)
        prox = x * max(1 - step * weight / norm(x), 0)

    Args:
      weight: >= 0.
      axis: the axes of a leaf that run inside a group, a whole number or a tuple of them; None makes each
        leaf one group. `axis=1` for a matrix makes each row a group.

    Source: Yuan & Lin 2006.
    """
    axes = _axes("group_lasso_penalty", axis)
    return PenaltyRule(
        lambda x, step: _shrunk_groups(x, axes, step * like(x, weight)),
        lambda x: like(x, weight) * jnp.sum(_norms(x, axes)),
    )


@penalty
def sparse_group_lasso_penalty(l1: Weight, group: Weight, axis: Any = None) -> PenaltyRule:
    """The sum of `l1_penalty(l1)` and `group_lasso_penalty(group, axis)`: few groups, few numbers in them.

        prox = that of the group lasso at that of the lasso

    Args:
      l1: >= 0.
      group: >= 0.
      axis: as in `group_lasso_penalty`.

    Source: Simon, Friedman, Hastie & Tibshirani 2013.
    """
    axes = _axes("sparse_group_lasso_penalty", axis)
    return PenaltyRule(
        lambda x, step: _shrunk_groups(shrunk(x, step * like(x, l1)), axes, step * like(x, group)),
        lambda x: like(x, l1) * jnp.sum(jnp.abs(x)) + like(x, group) * jnp.sum(_norms(x, axes)),
    )


@penalty
def nuclear_norm_penalty(weight: Weight) -> PenaltyRule:
    """The sum of singular values: matrices of low rank.

        amount = weight * sum(s),  x = U diag(s) V'
        prox = U diag(max(s - step * weight, 0)) V'

    Args:
      weight: >= 0.

    The last two axes of a leaf are a matrix; others count matrices. Raises ValueError for vectors.
    Derivatives are those of a singular value decomposition: NaN where singular values are equal.
    Source: Cai, Candes & Shen 2010.
    """

    def prox(x: jax.Array, step: jax.Array) -> jax.Array:
        _check_rank("nuclear_norm_penalty", x, 2)
        u, s, v = jnp.linalg.svd(x, full_matrices=False)
        return jnp.matmul(u * shrunk(s, step * like(x, weight))[..., None, :], v, precision="highest")

    def amount(x: jax.Array) -> jax.Array:
        _check_rank("nuclear_norm_penalty", x, 2)
        return like(x, weight) * jnp.sum(jnp.linalg.svd(x, compute_uv=False))

    return PenaltyRule(prox, amount)


@penalty
def total_variation_penalty(weight: Weight, axis: int = -1) -> PenaltyRule:
    """The sum of absolute differences of neighbors: piecewise constant signals.

        amount = weight * sum|p[i + 1] - p[i]|

    Args:
      weight: >= 0.
      axis: the axis along which neighbors lie; others count signals.

    The proximal operator is exact, in one pass over the signal. Its derivative is the mean over each constant
    piece. Raises TypeError for complex parameters, ValueError for scalars.
    Source: Johnson 2013, "A dynamic programming algorithm for the fused lasso".
    """
    name = "total_variation_penalty"
    (place,) = _axes(name, axis) or (-1,)

    def prox(x: jax.Array, step: jax.Array) -> jax.Array:
        _check_signal(name, x, place)
        rows = jnp.moveaxis(x, place, -1)
        solve = jax.vmap(denoised, (0, None))
        smooth = solve(rows.reshape(-1, rows.shape[-1]), step * like(x, weight))
        return jnp.moveaxis(smooth.reshape(rows.shape), -1, place)

    def amount(x: jax.Array) -> jax.Array:
        _check_signal(name, x, place)
        return like(x, weight) * jnp.sum(jnp.abs(jnp.diff(x, axis=place)))

    return PenaltyRule(prox, amount)


def denoised(y: jax.Array, weight: jax.Array) -> jax.Array:
    """`argmin_x |x - y|^2 / 2 + weight * sum|x[i + 1] - x[i]|` for a vector.

    The values of the pieces are computed from the pieces, so that sums of a long signal lose no digits and
    derivatives are those of the means.
    """
    if y.size < 2:
        return y
    shape = jax.lax.stop_gradient(_message_passing(*jax.lax.stop_gradient((y, weight))))
    jump = jnp.sign(jnp.diff(shape))
    piece = jnp.concatenate([jnp.zeros(1, np.int32), jnp.cumsum(jump != 0, dtype=np.int32)])

    def per_piece(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, piece, y.size)

    zero = jnp.zeros(1, y.dtype)
    pull = jnp.concatenate([jump, zero]) - jnp.concatenate([zero, jump])
    count = jnp.maximum(per_piece(jnp.ones_like(y)), 1)
    return ((per_piece(y) + weight * per_piece(pull)) / count)[piece]


def _message_passing(y: jax.Array, weight: jax.Array) -> jax.Array:
    """The minimizer by dynamic programming over the derivative of the cost so far, as a function of `x[i]`.

    That derivative is piecewise linear and grows. Passing the penalty on clips it to [-weight, weight], at
    two points that `x[i]` must lie between, given `x[i + 1]`. The linear pieces are kept as knots, where
    slope and intercept change; each point drops knots from both ends and adds one at each.
    """
    n = y.size

    def walk(knots: Any, line: Any, at: jax.Array, way: int, target: jax.Array, last: jax.Array) -> Any:
        """From one end, the line on which the derivative reaches `target`, and the knot before which."""

        def goes_on(now: Any) -> jax.Array:
            i, slope, intercept = now
            more = (last - i) * way >= 0
            value = slope * knots[0][i] + intercept
            return more & ((target - value) * way >= 0)

        def move(now: Any) -> Any:
            i, slope, intercept = now
            return i + way, slope + way * knots[1][i], intercept + way * knots[2][i]

        return jax.lax.while_loop(goes_on, move, (at, *line))

    def put(knots: Any, i: jax.Array, knot: tuple[Any, ...]) -> Any:
        return tuple(array.at[i].set(value) for array, value in zip(knots, knot, strict=True))

    one = jnp.ones((), y.dtype)
    step = np.int32(1)

    def advance(carry: Any, value: jax.Array) -> Any:
        knots, left, right = carry
        i, slope, intercept = walk(knots, (one, -weight - value), left, 1, -weight, right)
        j, slope_right, intercept_right = walk(knots, (one, weight - value), right, -1, weight, i)
        lowest = (-weight - intercept) / slope
        highest = (weight - intercept_right) / slope_right
        knots = put(knots, i - step, (lowest, slope, intercept + weight))
        knots = put(knots, j + step, (highest, -slope_right, weight - intercept_right))
        return (knots, i - step, j + step), (lowest, highest)

    # Of the first point the derivative is x - y[0]; room for one knot at either end for each further point.
    empty = jnp.zeros(2 * n, y.dtype)
    middle = jnp.asarray(n, np.int32)
    knots = put((empty, empty, empty), middle - step, (y[0] - weight, one, weight - y[0]))
    knots = put(knots, middle, (y[0] + weight, -one, weight + y[0]))
    carry, (lowest, highest) = jax.lax.scan(advance, (knots, middle - step, middle), y[1:-1])
    knots, left, right = carry
    zero = jnp.zeros((), y.dtype)
    _, slope, intercept = walk(knots, (one, -weight - y[-1]), left, 1, zero, right)
    lowest = jnp.concatenate([y[:1] - weight, lowest])
    highest = jnp.concatenate([y[:1] + weight, highest])

    def back(following: jax.Array, bounds: Any) -> Any:
        here = jnp.clip(following, *bounds)
        return here, here

    end = -intercept / slope
    _, rest = jax.lax.scan(back, end, (lowest, highest), reverse=True)
    return jnp.concatenate([rest, end[None]])


def _norms(x: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """The norm of each group, of shape 1 along its axes. Squares neither overflow nor vanish."""
    axes = tuple(range(x.ndim)) if axes is None else axes
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    scale = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    square = jnp.sum(jnp.abs(x / scale) ** 2, axis=axes, keepdims=True)
    is_zero = square == 0
    return jnp.where(is_zero, 0, scale * jnp.sqrt(jnp.where(is_zero, 1, square)))


def _shrunk_groups(x: jax.Array, axes: tuple[int, ...] | None, by: jax.Array) -> jax.Array:
    norm = _norms(x, axes)
    # Also for a group with a NaN, whose norm is NaN.
    kept = jnp.where(norm <= by, 0, 1 - by / jnp.where(norm == 0, 1, norm))
    return jnp.where(kept == 0, 0, kept * x)


def _axes(name: str, axis: Any) -> tuple[int, ...] | None:
    if axis is None:
        return None
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not axes or any(isinstance(a, bool) or not isinstance(a, int | np.integer) for a in axes):
        raise TypeError(
            f"{name}: argument 'axis' must be a whole number or a tuple of them; got {describe(axis)}"
        )
    return tuple(map(int, axes))


def _check_rank(name: str, x: jax.Array, rank: int) -> None:
    if x.ndim < rank:
        raise ValueError(f"{name}: parameters must have at least {rank} axes; got shape {x.shape}")


def _check_signal(name: str, x: jax.Array, axis: int) -> None:
    if is_complex(x.dtype):
        raise TypeError(f"{name}: parameters must be real; got {x.dtype}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name}: argument 'axis' must be an axis of shape {x.shape}; got {axis}")
