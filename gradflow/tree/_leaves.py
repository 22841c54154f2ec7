"""Checks of leaves, and the common dtype of several."""

import functools
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import is_number_or_array
from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote, real_dtype
from gradflow._errors import describe
from gradflow.tree._paths import is_none, path_string, show


def dtype_of(x: Any) -> DType:
    """The dtype of a leaf: an array, a tracer, a `jax.ShapeDtypeStruct` or a Python number."""
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return x.dtype
    # Without jax_enable_x64, NumPy's 64-bit types are 32-bit types in jax.
    return np.dtype(jax.dtypes.canonicalize_dtype(np.result_type(x)))


def is_numeric_dtype(dtype: DType) -> bool:
    """Whether `dtype` is boolean, integer or inexact, and not of PRNG keys."""
    return bool(jnp.issubdtype(dtype, np.number)) or dtype == np.bool_


def without_float0(tree: Any) -> Any:
    """The tree with None for each leaf of dtype float0, the gradient of an integer: it has no update."""
    for leaf in jax.tree.leaves(tree):
        if getattr(leaf, "dtype", None) == jax.dtypes.float0:
            return jax.tree.map(_none_for_float0, tree)
    return tree


def _none_for_float0(leaf: Any) -> Any:
    return None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf


def broadcasts_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to `wanted` without making it larger."""
    pairs = zip(shape[::-1], wanted[::-1], strict=False)
    return len(shape) <= len(wanted) and all(have in (1, want) for have, want in pairs)


def common_dtype(dtypes: Iterable[DType]) -> DType:
    """The dtype to which leaves are promoted: an inexact one over integers, float32 for no leaves."""
    found = set(dtypes)
    floats = [dtype for dtype in found if is_inexact(dtype)]
    if floats:
        return functools.reduce(promote, sorted(floats, key=str))
    if not found:
        return np.dtype(np.float32)
    whole = functools.reduce(np.promote_types, sorted(found, key=str))
    return np.dtype(jax.dtypes.canonicalize_dtype(whole))


def accumulator(leaves: Iterable[Any], real: bool = False) -> DType:
    """The dtype of sums of leaves: at least 32 bits; `real` for sums of absolute values."""
    dtype = common_dtype(x.dtype for x in leaves)
    if is_inexact(dtype):
        return real_dtype(compute_dtype(dtype)) if real else compute_dtype(dtype)
    return np.promote_types(dtype, np.uint32 if dtype.kind == "u" else np.int32)


def arrays_of(tree: Any, real: bool = False) -> list[jax.Array]:
    """The leaves; TypeError naming the first that does not hold numbers, or real numbers if `real`."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    for path, x in pairs:
        if not is_numeric_dtype(x.dtype) or (real and is_complex(x.dtype)):
            expected = "real numbers" if real else "numbers"
            where = show(path_string(path))
            raise TypeError(f"tree: the leaf at {where} must hold {expected}; got {x.dtype}")
    return [x for _, x in pairs]


def floating_leaves(owner: str, argument: str, tree: Any) -> tuple[list[jax.Array], Any]:
    """The leaves of an argument as real floating-point arrays, and its structure; TypeError names another."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = []
    for path, leaf in flat:
        dtype = jnp.result_type(leaf) if is_number_or_array(leaf) else None
        if dtype is None or not is_inexact(dtype) or is_complex(dtype):
            raise TypeError(
                f"{owner}: argument '{argument}' must have real floating-point leaves; got {describe(leaf)} "
                f"at {show(path_string(path))}"
            )
        leaves.append(jnp.asarray(leaf, dtype=dtype))
    return leaves, structure


def path_at(tree: Any, index: int) -> str:
    """The path of the leaf with this index, counting None leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)
    return path_string(pairs[index][0])


def raise_leaf_error(tree: Any, index: int, expected: str, got: Any) -> NoReturn:
    """Raises TypeError about the leaf with this index, counting None leaves."""
    raise TypeError(f"tree: the leaf at {show(path_at(tree, index))} must be {expected}; got {got}")
