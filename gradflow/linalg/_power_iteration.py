"""The dominant eigenvalue by repeated multiplication."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import KEY, checked, is_number_or_array
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote
from gradflow._errors import describe
from gradflow.linalg._arguments import PRECISION, at_least_zero, count, square
from gradflow.tree._paths import path_string, show

_NAME = "power_iteration"


@checked(precision=PRECISION | None, key=KEY | None)
def power_iteration(
    matrix: Any,
    *,
    v0: Any = None,
    num_iters: Any = 100,
    error_tolerance: Any = 1e-6,
    precision: Any = jax.lax.Precision.HIGHEST,
    key: Any = None,
) -> tuple[jax.Array, Any]:
    """Computes the eigenvalue of largest magnitude and its unit eigenvector, `v <- A v / |A v|`.

    The eigenvalue is `l = v^T A v`. The iteration converges when one eigenvalue is the largest in
    magnitude. A matrix of zeros gives 0 and the starting vector.

    Args:
      matrix: a real (n, n) array, or a function that computes the product with a tree like `v0`.
      v0: the starting vector, required for a function; random by default. Zero selects a vector of ones.
      num_iters: maximum number of iterations, >= 0.
      error_tolerance: stops at `|A v - l v| <= error_tolerance * |l|`, >= 0.
      precision: as in `jax.numpy.matmul`.
      key: PRNG key of the random start; `jax.random.key(0)` by default.

    Derivatives are those of the eigenpair, by the implicit function theorem. They assume convergence, and
    cost a pseudo-inverse of the size of the matrix, also for a function. Source: von Mises &
    Pollaczek-Geiringer, "Praktische Verfahren der Gleichungsauflösung", ZAMM 9, 1929.
    """
    num_iters = count(_NAME, "num_iters", num_iters, traced=True)
    if callable(matrix):
        product, start, dtypes = _read_function(matrix, v0)
    else:
        a, start = _read_matrix(matrix, v0, key)
        dtypes = a.dtype
    tolerance = at_least_zero(_NAME, "error_tolerance", error_tolerance, _widest(start))
    if callable(matrix):
        value, v = _eigenpair(product, start, num_iters, tolerance)
    else:
        value, v = _of_matrix(a, start, num_iters, tolerance, precision=precision)
    out = functools.reduce(promote, jax.tree.leaves(dtypes) or [tolerance.dtype])
    return value.astype(out), jax.tree.map(lambda u, dtype: u.astype(dtype), v, dtypes)


# A jit of its own, so that calls from outside of jit do not compile the loop again.
@functools.partial(jax.jit, static_argnames="precision")
def _of_matrix(a: jax.Array, start: Any, num_iters: Any, tolerance: Any, precision: Any) -> Any:
    wide = a.astype(start.dtype)
    product = functools.partial(jnp.matmul, wide, precision=precision)
    return _eigenpair(product, start, num_iters, tolerance)


def _eigenpair(
    product: Callable[[Any], Any], start: Any, num_iters: Any, tolerance: jax.Array
) -> tuple[jax.Array, Any]:
    def residual(pair: Any) -> Any:
        value, v = pair
        excess = jax.tree.map(lambda w, u: w - value.astype(u.dtype) * u, product(v), v)
        return (1 - _dot(v, v)) / 2, excess

    def solve(_: Any, guess: Any) -> Any:
        return dominant(product, guess[1], num_iters, tolerance)

    guess = (jnp.zeros_like(tolerance), start)
    pair: tuple[jax.Array, Any] = jax.lax.custom_root(residual, guess, solve, _solve_linear)
    return pair


def dominant(
    product: Callable[[Any], Any], start: Any, num_iters: Any, tolerance: jax.Array
) -> tuple[jax.Array, Any]:
    """The eigenpair, without derivatives in reverse mode."""

    def unfinished(carry: Any) -> Any:
        i, value, error, _ = carry
        return (i < num_iters) & (error > tolerance * jnp.abs(value))

    def step(carry: Any) -> Any:
        i, _, _, v = carry
        w = product(v)
        value = _dot(v, w)
        excess = jax.tree.map(lambda x, u: x - value.astype(u.dtype) * u, w, v)
        return i + 1, value, jnp.sqrt(_dot(excess, excess)), _unit(w, otherwise=v)

    start = _unit(start, otherwise=_unit(jax.tree.map(jnp.ones_like, start), otherwise=start))
    zero = jnp.zeros((), _widest(start))
    carry = (jnp.int32(0), zero, jnp.full_like(zero, jnp.inf), start)
    *_, v = jax.lax.while_loop(unfinished, step, carry)
    return _dot(v, product(v)), v


def _read_matrix(matrix: Any, v0: Any, key: Any) -> tuple[jax.Array, jax.Array]:
    """The matrix, and the start in the dtype of the arithmetic."""
    a = square(_NAME, "matrix", matrix)
    wide, n = compute_dtype(a.dtype), a.shape[0]
    if v0 is None:
        key = jax.random.key(0) if key is None else key
        return a, jax.random.uniform(key, (n,), wide, -1, 1)
    if not is_number_or_array(v0) or np.shape(v0) != (n,):
        raise ValueError(f"{_NAME}: argument 'v0' must have shape ({n},); got {describe(v0)}")
    return a, _leaf((), v0).astype(wide)


def _read_function(matrix: Callable[[Any], Any], v0: Any) -> tuple[Callable[[Any], Any], Any, Any]:
    """The product and the start in the dtype of the arithmetic, and the dtypes of `v0`."""
    if v0 is None:
        raise ValueError(f"{_NAME}: argument 'v0' must be given if 'matrix' is a function; got None")
    given = jax.tree_util.tree_map_with_path(_leaf, v0)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, given)
    like = jax.eval_shape(matrix, given)
    shapes = [jax.tree.map(lambda x: x.shape, tree) for tree in (given, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{_NAME}: argument 'matrix' must return a tree like 'v0', {shapes[0]}; got {shapes[1]}"
        )

    def product(v: Any) -> Any:
        w = matrix(jax.tree.map(lambda u, dtype: u.astype(dtype), v, dtypes))
        return jax.tree.map(lambda x, u: x.astype(u.dtype), w, v)

    return product, jax.tree.map(lambda u: u.astype(compute_dtype(u.dtype)), given), dtypes


def _leaf(path: Any, leaf: Any) -> jax.Array:
    dtype = jnp.result_type(leaf) if is_number_or_array(leaf) else None
    if dtype is None or not is_inexact(dtype) or is_complex(dtype):
        raise TypeError(
            f"{_NAME}: argument 'v0' must have real floating-point leaves; got {describe(leaf)} at"
            f" {show(path_string(path))}"
        )
    return jnp.asarray(leaf, dtype=dtype)


def _widest(tree: Any) -> DType:
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]
    return functools.reduce(promote, dtypes, np.dtype(np.float32))


def _dot(a: Any, b: Any) -> jax.Array:
    widest = _widest(a)
    terms = jax.tree.map(lambda x, y: jnp.sum(x.astype(widest) * y.astype(widest)), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(terms), jnp.zeros((), widest))


def _unit(v: Any, otherwise: Any) -> Any:
    """`v / |v|`, or `otherwise` for zero; squares neither overflow nor underflow."""
    widest = _widest(v)
    parts = [jnp.max(jnp.abs(x), initial=0).astype(widest) for x in jax.tree.leaves(v)]
    largest = functools.reduce(jnp.maximum, parts, jnp.zeros((), widest))
    limits = np.finfo(widest)
    s = jnp.where(largest >= limits.tiny, jnp.minimum(largest, limits.max / 16), 1)
    scaled = jax.tree.map(lambda x: x / s.astype(x.dtype), v)
    square = _dot(scaled, scaled)
    norm = jnp.sqrt(jnp.where(square == 0, 1, square))
    return jax.tree.map(lambda x, y: jnp.where(square == 0, y, x / norm.astype(x.dtype)), scaled, otherwise)


def _solve_linear(linear: Callable[[Any], Any], target: Any) -> Any:
    """The `z` with `linear(z) = target`: `linear` is a bordered matrix, small enough to materialize.

    It is singular where the eigenvalue is repeated; the pseudo-inverse then changes the
    eigenvector as little as possible.
    """
    leaves, treedef = jax.tree.flatten(target)
    widest = _widest(target)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def flat(tree: Any) -> jax.Array:
        return jnp.concatenate([leaf.astype(widest).ravel() for leaf in jax.tree.leaves(tree)])

    def tree(vector: jax.Array) -> Any:
        parts = jnp.split(vector, ends[:-1])
        shaped = [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, shaped)

    columns = jnp.eye(ends[-1], dtype=widest)
    jacobian = jax.vmap(lambda z: flat(linear(tree(z))), in_axes=1, out_axes=1)(columns)
    inverse = jnp.linalg.pinv(jax.lax.stop_gradient(jacobian))
    return tree(jnp.matmul(inverse, flat(target), precision="highest"))
