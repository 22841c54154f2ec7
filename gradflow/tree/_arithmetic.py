"""Sums, products and selections of trees, leaf by leaf. Each is one compiled call for the whole tree.

A result is None where an operand is None. Leaves of different inexact dtypes are promoted to the smallest
dtype that holds both. Below float32, arithmetic is done in float32 and rounded once. Corresponding leaves are
broadcast as in NumPy.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, NUMBERS, SCALAR, Kind, checked, is_number_or_array
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote
from gradflow.tree._leaves import arrays_of, common_dtype, is_numeric_dtype
from gradflow.tree._structure import match

CONDITION = Kind("a scalar or an array", is_number_or_array)


@checked(tree_x=NUMBERS, tree_y=NUMBERS, other_trees=NUMBERS)
def add(tree_x: Any, tree_y: Any, *other_trees: Any) -> Any:
    """The sum of two or more trees."""
    return _add(tree_x, tree_y, *other_trees)


@checked(tree_x=NUMBERS, tree_y=NUMBERS)
def sub(tree_x: Any, tree_y: Any) -> Any:
    """`tree_x - tree_y`."""
    return _sub(tree_x, tree_y)


@checked(tree_x=NUMBERS, tree_y=NUMBERS)
def mul(tree_x: Any, tree_y: Any) -> Any:
    """`tree_x * tree_y`."""
    return _mul(tree_x, tree_y)


@checked(tree_x=NUMBERS, tree_y=NUMBERS)
def div(tree_x: Any, tree_y: Any) -> Any:
    """`tree_x / tree_y`; integers are divided as float32."""
    return _div(tree_x, tree_y)


@checked(scalar=SCALAR, tree=NUMBERS)
def scale(scalar: Any, tree: Any) -> Any:
    """`scalar * tree`.

    Only the kind of the scalar's dtype counts, not its width: a bfloat16 leaf stays bfloat16. A complex
    scalar makes real leaves complex, and a real scalar makes integer leaves float32.
    """
    return _scale(scalar, tree)


@checked(tree_x=NUMBERS, scalar=SCALAR, tree_y=NUMBERS)
def add_scale(tree_x: Any, scalar: Any, tree_y: Any) -> Any:
    """`tree_x + scalar * tree_y`; the scalar's dtype counts like in `scale`."""
    return _add_scale(tree_x, scalar, tree_y)


@checked(tree=NUMBERS, min_value=SCALAR | None, max_value=SCALAR | None)
def clip(tree: Any, min_value: Any = None, max_value: Any = None) -> Any:
    """Clips every number to `[min_value, max_value]`; a bound of None is unbounded.

    The dtypes of the bounds count like the scalar's in `scale`. NaN stays NaN. Complex leaves raise
    TypeError.
    """
    return _clip(tree, min_value, max_value)


@checked(tree=NUMBERS)
def conj(tree: Any) -> Any:
    """The complex conjugate."""
    return _conj(tree)


@checked(tree=NUMBERS)
def real(tree: Any) -> Any:
    """The real part."""
    return _real(tree)


@checked(condition=CONDITION, tree_x=ARRAYS, tree_y=ARRAYS)
def where(condition: Any, tree_x: Any, tree_y: Any) -> Any:
    """`tree_x` where `condition` holds, else `tree_y`; leaves may be PRNG keys too.

    The condition is a scalar, or an array that is broadcast with every leaf.
    """
    return _where(condition, tree_x, tree_y)


@jax.jit
def _add(*trees: Any) -> Any:
    return _combine(lambda x, *rest: x + _add_up(rest), trees)


def _add_up(terms: tuple[jax.Array, ...]) -> jax.Array:
    return terms[0] if len(terms) == 1 else terms[0] + _add_up(terms[1:])


@jax.jit
def _sub(tree_x: Any, tree_y: Any) -> Any:
    return _combine(lambda x, y: x - y, (tree_x, tree_y))


@jax.jit
def _mul(tree_x: Any, tree_y: Any) -> Any:
    return _combine(lambda x, y: x * y, (tree_x, tree_y))


@jax.jit
def _div(tree_x: Any, tree_y: Any) -> Any:
    # The scalar 1.0 makes integers float32, as in `scale`.
    return _combine(lambda x, y, _: x / y, (tree_x, tree_y), (np.float32(1),))


@jax.jit
def _scale(scalar: jax.Array, tree: Any) -> Any:
    return _combine(lambda x, s: s * x, (tree,), (scalar,))


@jax.jit
def _add_scale(tree_x: Any, scalar: jax.Array, tree_y: Any) -> Any:
    return _combine(lambda x, y, s: x + s * y, (tree_x, tree_y), (scalar,))


@jax.jit
def _clip(tree: Any, low: jax.Array | None, high: jax.Array | None) -> Any:
    arrays_of(tree, real=True)
    tree = _each(lambda x: x, tree)
    if low is not None:
        tree = _each(lambda x: _apply(jnp.maximum, (x,), (_representable(low, x.dtype),)), tree)
    if high is not None:
        tree = _each(lambda x: _apply(jnp.minimum, (x,), (_representable(high, x.dtype),)), tree)
    return tree


def _representable(bound: jax.Array, dtype: DType) -> jax.Array:
    """An integer bound of integers, moved into the range of their dtype: a cast would wrap it around."""
    if not all(jnp.issubdtype(kind, np.integer) for kind in (bound.dtype, dtype)):
        return bound
    ours, theirs = jnp.iinfo(bound.dtype), jnp.iinfo(dtype)
    return jnp.clip(bound, max(ours.min, theirs.min), min(ours.max, theirs.max))


@jax.jit
def _conj(tree: Any) -> Any:
    return _each(lambda x: x.conj(), tree)


@jax.jit
def _real(tree: Any) -> Any:
    return _each(lambda x: x.real, tree)


def _each(f: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    leaves = [f(x) for x in arrays_of(tree)]
    # Converting to the same dtype makes a weak type, as of a Python number, strong.
    strong = [jax.lax.convert_element_type(x, x.dtype) for x in leaves]
    return jax.tree.unflatten(jax.tree.structure(tree), strong)


@jax.jit
def _where(condition: jax.Array, tree_x: Any, tree_y: Any) -> Any:
    def select(x: Any, y: Any) -> Any:
        if x is None or y is None:
            return None
        chosen = condition.astype(bool)
        # A scalar stays one: an array of the same values would not have the sharding of the leaf.
        chosen, x, y = _broadcast((chosen, x, y)) if chosen.ndim else (chosen, *_broadcast((x, y)))
        if x.dtype == y.dtype and not is_numeric_dtype(x.dtype):  # PRNG keys
            return jnp.where(chosen, x, y)
        return _apply(lambda a, b: jnp.where(chosen, a, b), (x, y), ())

    conditions = jax.tree.map(lambda _: condition, tree_x)
    rows, treedef = match(tree_x, tree_y, conditions, broadcast=True)
    return treedef.unflatten([select(x, y) for x, y, _ in rows])


def _combine(f: Callable[..., jax.Array], trees: tuple[Any, ...], scalars: tuple[Any, ...] = ()) -> Any:
    """`f(*leaves, *scalars)` for corresponding leaves of the trees."""
    rows, treedef = match(*trees, broadcast=True)
    for tree in trees:
        arrays_of(tree)
    return treedef.unflatten(
        [None if any(x is None for x in row) else _apply(f, row, scalars) for row in rows]
    )


def _apply(f: Callable[..., jax.Array], row: tuple[Any, ...], scalars: tuple[Any, ...]) -> Any:
    strong = [x.dtype for x in row if not x.weak_type]
    dtype = common_dtype(strong or [x.dtype for x in row])
    for x in (*row, *scalars):
        if x.dtype not in strong:
            dtype = _of_kind(dtype, x.dtype)
    work = compute_dtype(dtype) if is_inexact(dtype) else dtype
    return f(*(x.astype(work) for x in (*_broadcast(row), *scalars))).astype(dtype)


def _broadcast(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leaves in their common shape, also where jax does not promote ranks by itself."""
    shape = np.broadcast_shapes(*(x.shape for x in row))
    return tuple(x if x.shape == shape else jnp.broadcast_to(x, shape) for x in row)


def _of_kind(dtype: DType, other: DType) -> DType:
    """`dtype`, made inexact or complex if `other` is, with the same width where possible."""
    if is_complex(other):
        return promote(dtype if is_inexact(dtype) else np.dtype(np.float32), np.dtype("complex64"))
    if is_inexact(other) and not is_inexact(dtype):
        return np.dtype(np.float32)
    return dtype
