"""The size and dtype of a tree, and whether two trees are close."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, FLAG, NUMBERS, Number, checked
from gradflow._dtypes import DType, is_inexact
from gradflow._errors import describe
from gradflow.tree._leaves import arrays_of, common_dtype, dtype_of
from gradflow.tree._paths import path_string, show
from gradflow.tree._structure import match


@checked(tree=ARRAYS)
def size(tree: Any) -> int:
    """The number of elements in all leaves."""
    return sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(tree))


@checked(tree=ARRAYS)
def dtype(tree: Any, mixed_dtype_handler: str | None = None) -> DType:
    """The dtype of the leaves; float32 for an empty tree.

    Args:
      tree: a tree of numbers.
      mixed_dtype_handler: for leaves of several dtypes. None raises ValueError. "promote" returns the
        smallest dtype that holds all, "highest" the one among them that holds all others, and "lowest" the
        one that all others hold.

    Raises ValueError if there is no such dtype, with the path of a leaf for each dtype.
    """
    if mixed_dtype_handler not in (None, "promote", "highest", "lowest"):
        raise ValueError(
            "tree.dtype: argument 'mixed_dtype_handler' must be None, 'promote', 'highest' or 'lowest'; got "
            f"{describe(mixed_dtype_handler)}"
        )
    first: dict[DType, str] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        first.setdefault(dtype_of(x), show(path_string(path)))
    if len(first) < 2:
        return next(iter(first), np.dtype(jnp.float32))
    if mixed_dtype_handler == "promote":
        return common_dtype(first)
    for own in first if mixed_dtype_handler else ():
        # `own` is the highest if promotion with each other dtype gives `own`, the lowest if the other.
        highest = mixed_dtype_handler == "highest"
        if all(common_dtype([own, d]) == (own if highest else d) for d in first):
            return own
    examples = ", ".join(f"{d} at {path}" for d, path in first.items())
    kind = f"no {mixed_dtype_handler} dtype" if mixed_dtype_handler else "no common dtype"
    raise ValueError(f"tree.dtype: leaves must have one dtype; got {examples}, which have {kind}")


@checked(a=NUMBERS, b=NUMBERS, rtol=Number(0), atol=Number(0), equal_nan=FLAG)
def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> jax.Array:
    """Whether `|a - b| <= atol + rtol * |b|` everywhere; None is close only to None.

    Raises ValueError where structures or shapes differ.
    """
    result: jax.Array = _allclose(a, b, rtol, atol, equal_nan)
    return result


@jax.jit
def _allclose(a: Any, b: Any, rtol: jax.Array, atol: jax.Array, equal_nan: jax.Array) -> jax.Array:
    rows, _ = match(a, b)
    arrays_of(a), arrays_of(b)
    close = jnp.asarray(True)
    for x, y in rows:
        if x is None or y is None:
            close &= x is y
            continue
        same = x == y if x.dtype == y.dtype and not is_inexact(x.dtype) else None
        meet = np.promote_types(common_dtype([x.dtype, y.dtype]), np.float32)
        meet = jax.dtypes.canonicalize_dtype(meet)
        x, y = x.astype(meet), y.astype(meet)
        real = x.real.dtype
        slack = atol.astype(real) + rtol.astype(real) * jnp.abs(y)
        within = jnp.abs(x - y) <= slack
        if same is not None:
            # Integers that differ by less than one are equal; as floats, large ones may seem so.
            within = jnp.where(slack < 1, same, within)
        # The tolerance of an infinite y is infinite, so everything would be close to it.
        close_here = jnp.where(jnp.isfinite(x) & jnp.isfinite(y), within, x == y)
        both_nan = jnp.isnan(x) & jnp.isnan(y) & equal_nan
        close &= jnp.all(close_here | both_nan)
    return close
