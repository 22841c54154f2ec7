"""The quadratic model of L-BFGS-B and where its minimum lies between bounds, for vectors.

`B = theta I - W' K^-1 W` in the compact form of Byrd, Nocedal & Schnabel 1994. The rows of `W` are the
differences of gradients, then `theta` times those of parameters. Pairs that are not in use are zero rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._products import full_product


class Pairs(NamedTuple):
    """The last differences of parameters and gradients as rows, the oldest first, and their products."""

    steps: jax.Array
    changes: jax.Array
    step_by_change: jax.Array  # step i times change j
    step_by_step: jax.Array


class Model(NamedTuple):
    """The parts of `B`: the multiple of the identity, `W` and `K`."""

    theta: jax.Array
    rows: jax.Array
    middle: jax.Array


def append_pair(pairs: Pairs, step: jax.Array, change: jax.Array) -> Pairs:
    """The pairs with a new one, unless the gradient does not grow along it. A zero step removes all."""
    sums = jnp.sum(jnp.stack([step * change, step * step, change * change]), axis=1)
    curvature, step_sq, change_sq = sums
    least = float(np.finfo(step.dtype).eps) * jnp.sqrt(step_sq) * jnp.sqrt(change_sq)
    usable = (curvature > least) & (change_sq > 0) & (change_sq < jnp.inf) & (step_sq < jnp.inf)

    def shifted(rows: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.concatenate([rows[1:], new[None]])

    steps, changes = shifted(pairs.steps, step), shifted(pairs.changes, change)
    by_change = _bordered(pairs.step_by_change, full_product(steps, change), full_product(changes, step))
    along = full_product(steps, step)
    by_step = _bordered(pairs.step_by_step, along, along)
    new = Pairs(steps, changes, by_change, by_step)
    kept = step_sq > 0
    return Pairs(*(jnp.where(kept, jnp.where(usable, x, was), 0) for x, was in zip(new, pairs, strict=True)))


def _bordered(products: jax.Array, column: jax.Array, row: jax.Array) -> jax.Array:
    """The products without those of the oldest pair, with those of the newest."""
    inner = jnp.concatenate([products[1:, 1:], row[None, :-1]])
    return jnp.concatenate([inner, column[:, None]], axis=1)


def model_of(pairs: Pairs, first: jax.Array) -> Model:
    """The model that the pairs make; without one, `first` times the identity."""
    used = jnp.diagonal(pairs.step_by_step) > 0
    curvatures = jnp.where(used, jnp.diagonal(pairs.step_by_change), 1)
    newest = pairs.changes[-1]
    theta = jnp.where(used[-1], jnp.sum(newest * newest) / curvatures[-1], first)
    later = jnp.tril(pairs.step_by_change, -1)
    squares = theta * pairs.step_by_step + jnp.diag(jnp.where(used, 0, 1).astype(theta.dtype))
    middle = jnp.block([[jnp.diag(-curvatures), later.T], [later, squares]])
    return Model(theta, jnp.concatenate([pairs.changes, theta * pairs.steps]), middle)


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a small system by elimination without pivots, for one or many columns.

    `K` and the matrix of the subspace are negative definite in their first half, and positive definite after
    its elimination, so that no pivot vanishes. It batches, which LAPACK's calls do slowly.
    """
    size = matrix.shape[0]
    columns = right[:, None] if right.ndim == 1 else right
    places = jnp.arange(size)[:, None]

    def eliminate(i: jax.Array, table: jax.Array) -> jax.Array:
        row = table[i] / table[i, i]
        return jnp.where(places == i, row, table - table[:, i][:, None] * row[None])

    table = jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, columns], axis=1))
    return table[:, size:].reshape(right.shape)


def time_to_bound(x: jax.Array, speed: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """When each coordinate of `x + t * speed` reaches its bound; infinity for never."""
    gap = jnp.where(speed > 0, upper - x, x - lower)
    # Selected before the division, so that derivatives are finite where bounds are not.
    moves = (speed != 0) & (gap < jnp.inf)
    time = jnp.where(moves, gap, 0) / jnp.where(moves, jnp.abs(speed), 1)
    return jnp.where(moves, jnp.maximum(time, 0), jnp.inf)


def cauchy_point(
    x: jax.Array, g: jax.Array, lower: jax.Array, upper: jax.Array, model: Model
) -> tuple[jax.Array, jax.Array]:
    """The first minimum of the model along the path `clip(x - t g)`, and which coordinates are free there.

    Between two times at which a coordinate reaches its bound the model is a parabola. The parabolas of all
    segments come from running sums, and the first with a minimum is taken.
    """
    inverse = solve(model.middle, jnp.eye(model.middle.shape[0], dtype=x.dtype))
    bound = jnp.where(g < 0, upper, lower)
    time = time_to_bound(x, -g, lower, upper)
    d = jnp.where(time > 0, -g, 0)
    square, way = jnp.sum(d * d), full_product(model.rows, d)
    curve = _curvature(square, full_product(full_product(way, inverse), way), model)
    first = square / jnp.where(square > 0, curve, 1)

    def along(time_of_all: jax.Array) -> jax.Array:
        return jnp.where(d != 0, jnp.where(time <= time_of_all, bound, x + time_of_all * d), x)

    def search(_: jax.Array) -> jax.Array:
        order = jnp.argsort(time)
        ends, rates = time[order], d[order]
        moves = model.rows[:, order] * rates[None]
        last = jnp.zeros((moves.shape[0], 1), x.dtype)
        ways = jnp.concatenate([_from_the_end(moves), last], axis=1)
        squares = jnp.concatenate([_from_the_end(rates * rates), last[0]])
        finite = jnp.where(ends < jnp.inf, ends, 0)
        reached = jnp.cumsum(moves * finite[None], axis=1)
        begins = jnp.concatenate([last[0], finite])
        ends = jnp.concatenate([ends, jnp.full(1, jnp.inf, x.dtype)])
        places = jnp.concatenate([last, reached], axis=1) + begins[None] * ways
        turned = full_product(inverse, ways)
        slopes = -squares * (1 - model.theta * begins) - jnp.sum(places * turned, axis=0)
        curves = _curvature(squares, jnp.sum(ways * turned, axis=0), model)
        lengths = jnp.maximum(-slopes / jnp.where(squares > 0, curves, 1), 0)
        stops = (squares == 0) | (slopes >= 0) | (begins + lengths <= ends)
        k = jnp.argmax(stops)
        return begins[k] + jnp.where(squares[k] > 0, lengths[k], 0)

    crossed = jnp.min(jnp.where(time > 0, time, jnp.inf)) < first
    there = along(jax.lax.cond(crossed, search, lambda first: first, first))
    there = jnp.clip(there, lower, upper)
    return there, (there > lower) & (there < upper)


def _curvature(square: jax.Array, correction: jax.Array, model: Model) -> jax.Array:
    """`d' B d`, kept positive where rounding would leave nothing of it."""
    whole = model.theta * square
    return jnp.maximum(whole - correction, float(np.finfo(square.dtype).eps) * whole)


def _from_the_end(values: jax.Array) -> jax.Array:
    """Sums from each place to the end: no digits are lost where little is left."""
    return jax.lax.cumsum(values, axis=values.ndim - 1, reverse=True)


def bounded_minimum(
    x: jax.Array, g: jax.Array, lower: jax.Array, upper: jax.Array, model: Model
) -> jax.Array:
    """Where the model is least, near enough: the Cauchy point, then the free coordinates' minimum.

    The minimum is cut off at the bounds. If the way there is not downhill, the way from the Cauchy point to
    the minimum ends at the first bound instead (Morales & Nocedal 2011).
    """
    start, free = cauchy_point(x, g, lower, upper, model)
    moved = start - x
    rows = jnp.where(free[None], model.rows, 0)
    bent = full_product(solve(model.middle, full_product(model.rows, moved)), model.rows)
    slope = g + model.theta * moved - bent
    inner = solve(model.middle - full_product(rows, rows.T) / model.theta, full_product(rows, slope))
    d = jnp.where(free, -(slope + full_product(inner, rows) / model.theta) / model.theta, 0)
    d = jnp.where(jnp.isfinite(d), d, 0)
    cut = jnp.clip(start + d, lower, upper)
    share = jnp.minimum(1, jnp.min(time_to_bound(start, d, lower, upper)))
    downhill = jnp.sum((cut - x) * g) < 0
    return jnp.where(downhill, cut, jnp.clip(start + share * d, lower, upper))
