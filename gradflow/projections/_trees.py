"""Trees as lists of leaves: checked, reduced to scalars, and restored."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import is_number_or_array
from gradflow._dtypes import DType, compute_dtype, is_complex, promote
from gradflow._errors import describe
from gradflow.tree._leaves import broadcasts_to, floating_leaves
from gradflow.tree._paths import leaves_by_path, show
from gradflow.tree._structure import explain_trees


class Form(NamedTuple):
    """The structure and dtypes that restore a tree from its leaves."""

    treedef: Any
    dtypes: tuple[DType, ...]

    @property
    def widest(self) -> DType:
        """The dtype of scalars over all leaves."""
        return functools.reduce(promote, self.dtypes, np.dtype(np.float32))


def read(name: str, argument: str, tree: Any) -> tuple[list[jax.Array], Form]:
    leaves, treedef = floating_leaves(name, argument, tree)
    return leaves, Form(treedef, tuple(leaf.dtype for leaf in leaves))


Rule = Callable[..., list[jax.Array]]
Axes = tuple[int, ...] | None


def project(
    rule: Rule,
    leaves: list[jax.Array],
    form: Form,
    *shared: Any,
    own: tuple[Any, ...] = (),
    axes: Axes = None,
) -> Any:
    """The tree of `rule(leaves, *own, *shared)`, computed in float32 at least, in its own dtypes.

    `own` are lists with one entry for each leaf. With `axes`, the rule has one vector along these axes of one
    leaf at a time, and what `own` has for it.
    """
    return jax.tree.unflatten(form.treedef, _compiled(rule, form.dtypes, axes, leaves, own, shared))


# One compiled call: outside of jit, each operation would be dispatched separately.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    rule: Rule,
    dtypes: tuple[DType, ...],
    axes: Axes,
    leaves: list[jax.Array],
    own: tuple[Any, ...],
    shared: tuple[Any, ...],
) -> list[jax.Array]:
    wide = [leaf.astype(compute_dtype(leaf.dtype)) for leaf in leaves]
    if axes is None:
        results = rule(wide, *own, *shared)
    else:
        rows = zip(wide, *own, strict=True)
        results = [_along_axes(rule, axes, x, list(mine), shared) for x, *mine in rows]
    return [x.astype(dtype) for x, dtype in zip(results, dtypes, strict=True)]


def _along_axes(
    rule: Rule, axes: tuple[int, ...], x: jax.Array, own: Any, shared: tuple[Any, ...]
) -> jax.Array:
    if x.size == 0:
        return x
    ends = tuple(range(-len(axes), 0))

    def vectors(array: Any) -> jax.Array:
        """One row for each vector."""
        last = jnp.moveaxis(jnp.broadcast_to(array, x.shape), axes, ends)
        return last.reshape(-1, math.prod(last.shape[x.ndim - len(axes) :]))

    def one(row: jax.Array, mine: Any) -> jax.Array:
        return rule([row], *([part] for part in mine), *shared)[0]

    results = jax.vmap(one)(vectors(x), jax.tree.map(vectors, own))
    return jnp.moveaxis(results.reshape(jnp.moveaxis(x, axes, ends).shape), ends, axes)


def read_axes(name: str, argument: str, tree: Any, axis: Any) -> Axes:
    """The axes of a vector as a tuple, which every leaf has; None for one vector of all leaves."""
    if axis is None:
        return None
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    if not axes or any(isinstance(a, bool) or not isinstance(a, int | np.integer) for a in axes):
        raise TypeError(
            f"{name}: argument 'axis' must be None, a whole number or a tuple of them; got {describe(axis)}"
        )
    for path, leaf in leaves_by_path(tree).items():
        rank = np.ndim(leaf)
        places = {a + rank if a < 0 else a for a in axes}
        if leaf is not None and (len(places) < len(axes) or not places <= set(range(rank))):
            raise ValueError(
                f"{name}: argument 'axis' must name different axes of every leaf of '{argument}'; got {axis} "
                f"and the shape {np.shape(leaf)} at {show(path)}"
            )
    return tuple(int(a) for a in axes)


def scalar(name: str, argument: str, value: Any, dtype: DType) -> jax.Array:
    is_flag = isinstance(value, bool)
    if is_flag or not is_number_or_array(value) or np.ndim(value) or is_complex(jnp.result_type(value)):
        raise TypeError(f"{name}: argument '{argument}' must be a real scalar; got {describe(value)}")
    if isinstance(value, float) and value != value:
        expected = ">= 0" if argument == "scale" else "a number"
        raise ValueError(f"{name}: argument '{argument}' must be {expected}; got nan")
    return jnp.asarray(value, dtype=dtype)


def radius_of(name: str, scale: Any, form: Form) -> jax.Array:
    """`scale` as an array; a negative number raises, a negative jax array becomes NaN."""
    radius = scalar(name, "scale", scale, form.widest)
    if isinstance(scale, jax.Array):
        # Reading the value of a jax array would wait for the device, so the compiled program checks it.
        return jnp.where(radius >= 0, radius, jnp.nan)
    if not scale >= 0:
        raise ValueError(f"{name}: argument 'scale' must be >= 0; got {scale}")
    return radius


def read_pair(
    name: str, x: Any, a: Any, broadcast: bool = False
) -> tuple[list[jax.Array], list[jax.Array], Form]:
    """The leaves of `x` and of `a`, which must be a tree of the same shapes, and the form of `x`.

    With `broadcast`, a leaf of `a` may also be one that broadcasts to that of `x`.
    """
    xs, form = read(name, "x", x)
    others, other_form = read(name, "a", a)
    if form.treedef != other_form.treedef:
        raise ValueError(f"{name}: argument 'a' must be a tree like 'x': {explain_trees('x', x, 'a', a)}")
    for path, u, v in zip(_paths(x), xs, others, strict=True):
        if u.shape != v.shape and not (broadcast and broadcasts_to(v.shape, u.shape)):
            raise ValueError(
                f"{name}: argument 'a' must have the shape {u.shape} of 'x' at {show(path)}; got {v.shape}"
            )
    return xs, others, form


def matrix_and_offset(
    name: str, x: Any, matrix: Any, offset: Any, form: Form, axes: Axes
) -> tuple[jax.Array, jax.Array]:
    """`A` of shape (m, n) and `b` of shape (m,), for vectors of n numbers."""
    arrays = []
    for argument, value, rank in (("A", matrix, 2), ("b", offset, 1)):
        if not is_number_or_array(value) or np.ndim(value) != rank or is_complex(jnp.result_type(value)):
            shape = "(m, n)" if rank == 2 else "(m,)"
            raise TypeError(
                f"{name}: argument '{argument}' must be a real array of shape {shape}; got {describe(value)}"
            )
        arrays.append(jnp.asarray(value, form.widest))
    m, n = arrays[0].shape
    shapes = [(path, np.shape(leaf)) for path, leaf in leaves_by_path(x).items() if leaf is not None]
    if axes is None:
        shapes = [("", (sum(math.prod(shape) for _, shape in shapes),))]
    for path, shape in shapes:
        size = math.prod(shape if axes is None else (shape[a] for a in axes))
        if size != n:
            where = "" if axes is None else f" along axis {axes} at {show(path)}"
            raise ValueError(
                f"{name}: argument 'A' must have a column for each of the {size} numbers of 'x'{where}; got "
                f"shape {(m, n)}"
            )
    if arrays[1].shape != (m,):
        raise ValueError(
            f"{name}: argument 'b' must have a number for each of the {m} rows of 'A'; got {arrays[1].shape}"
        )
    return arrays[0], arrays[1]


def _paths(tree: Any) -> list[str]:
    return [path for path, leaf in leaves_by_path(tree).items() if leaf is not None]


# Arithmetic on lists of leaves, in the widest of their dtypes.


def _widest(leaves: list[jax.Array]) -> DType:
    return functools.reduce(promote, [x.dtype for x in leaves], np.dtype(np.float32))


def dot(xs: list[jax.Array], ys: list[jax.Array]) -> jax.Array:
    widest = _widest(xs + ys)
    terms = [jnp.sum(x.astype(widest) * y.astype(widest)) for x, y in zip(xs, ys, strict=True)]
    return functools.reduce(jnp.add, terms, jnp.zeros((), widest))


def _magnitude(leaves: list[jax.Array]) -> jax.Array:
    """The largest absolute value, and 1 for a tree of zeros; a constant under differentiation.

    Clipped so that its reciprocal is a normal number, because XLA may multiply by that.
    """
    widest = _widest(leaves)
    parts = [jnp.max(jnp.abs(x), initial=0).astype(widest) for x in leaves]
    largest = functools.reduce(jnp.maximum, parts, jnp.zeros((), widest))
    limits = np.finfo(widest)
    kept = jnp.where(largest < limits.tiny, 1, jnp.minimum(largest, limits.max / 16))
    return jax.lax.stop_gradient(kept)


class Scaled(NamedTuple):
    """`x = s * leaves`: the squares of `leaves` neither overflow nor underflow."""

    s: jax.Array
    leaves: list[jax.Array]
    square: jax.Array  # of the norm of `leaves`; 1 for zero, so that division is safe
    is_zero: jax.Array


def scaled_down(leaves: list[jax.Array]) -> Scaled:
    s = _magnitude(leaves)
    scaled = [x / s.astype(x.dtype) for x in leaves]
    square = dot(scaled, scaled)
    is_zero = square == 0
    return Scaled(s, scaled, jnp.where(is_zero, 1, square), is_zero)


def times(factor: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    return [factor.astype(x.dtype) * x for x in leaves]


def as_vector(leaves: list[jax.Array]) -> jax.Array:
    widest = _widest(leaves)
    return jnp.concatenate([x.astype(widest).ravel() for x in leaves])


def from_vector(vector: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    parts = jnp.split(vector, np.cumsum([x.size for x in like])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, like, strict=True)]


def is_empty(leaves: list[jax.Array]) -> bool:
    return sum(x.size for x in leaves) == 0
