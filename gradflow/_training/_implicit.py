"""Derivatives of a solution by the implicit function theorem."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradflow import tree
from gradflow._dtypes import is_complex
from gradflow._types import Params

Solver = Callable[[], tuple[Params, Any]]


def differentiable(
    optimality: Callable[[Params], Params], params: Params, solve: Solver
) -> tuple[Params, Any]:
    """The solution of `optimality(p) = 0` that `solve` finds, with derivatives, and `solve`'s other output.

        dp = -(d optimality / dp)^-1 (d optimality / d theta) d theta

    `theta` is all that `optimality` closes over. The matrix is made and inverted, so that the cost grows with
    the cube of the number of parameters. Where it is singular, derivatives are NaN and a warning says so.
    """
    for p in jax.tree.leaves(params):
        if is_complex(p.dtype):
            raise TypeError(f"minimize: parameters must be real with 'implicit'; got {p.dtype}")

    def tangent(linear: Callable[[Params], Params], y: Params) -> Params:
        vector, restore = ravel_pytree(y)
        columns = jax.vmap(lambda e: ravel_pytree(linear(restore(e)))[0])(
            jnp.eye(vector.size, dtype=vector.dtype)
        )
        return restore(jnp.matmul(inverse(columns.T), vector, precision="highest"))

    like = jax.eval_shape(solve)[1]

    def floats(*_: Any) -> tuple[Params, Any]:
        solution, rest = solve()
        return solution, jax.tree.map(lambda x: x.astype(jnp.result_type(float)), rest)

    # What is not differentiable passes as floats: `custom_root` gives it tangents of its own type.
    solution, rest = jax.lax.custom_root(optimality, params, floats, tangent, has_aux=True)
    rest = jax.tree.map(lambda x, kind: jax.lax.stop_gradient(x).astype(kind.dtype), rest, like)
    return solution, rest


def inverse(matrix: jax.Array) -> jax.Array:
    """The inverse by elimination with row pivots; NaN, with a warning, where a pivot is rounding error.

    Not LAPACK's: batched under `vmap`, its factorizations can hang beside matrix products on a CPU.
    """
    size = matrix.shape[0]
    least = size * float(np.finfo(matrix.dtype).eps) * jnp.max(jnp.abs(matrix), initial=0)
    places = jnp.arange(size)

    def eliminate(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        table, smallest = carry
        k = jnp.argmax(jnp.where(places >= i, jnp.abs(table[:, i]), -1))
        pivot = jax.lax.stop_gradient(jnp.abs(table[k, i]))
        order = jnp.where(places == i, k, jnp.where(places == k, i, places))
        table = table[order]
        row = table[i] / jnp.where(pivot > 0, table[i, i], 1)
        rest = table - table[:, i][:, None] * row[None]
        return jnp.where((places == i)[:, None], row[None], rest), jnp.minimum(smallest, pivot)

    start = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    table, smallest = jax.lax.fori_loop(0, size, eliminate, (start, jnp.full((), jnp.inf, matrix.dtype)))
    singular = ~(smallest > jax.lax.stop_gradient(least)) & (size > 0)
    jax.debug.callback(_warn, singular)
    return jnp.where(singular, jnp.nan, table[:, size:])


def _warn(singular: Any) -> None:
    if np.any(singular):
        warnings.warn(
            "minimize: the system of the implicit derivatives is singular: the solution is not unique "
            "nearby. Its derivatives are NaN; a small ridge penalty makes it unique",
            RuntimeWarning,
            stacklevel=2,
        )


def optimality_of(
    loss: Callable[[Params], jax.Array], there: Callable[[Params], Params] | None
) -> Callable[[Params], Params]:
    """The gradient, or with a set or a penalty what `p - there(p - gradient)` leaves."""

    def optimality(params: Params) -> Params:
        grad = jax.grad(loss)(params)
        return grad if there is None else tree.sub(params, there(tree.sub(params, grad)))

    return optimality
