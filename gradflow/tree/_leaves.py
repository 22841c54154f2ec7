"""What a leaf may be, and in which dtype leaves meet."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import DType, compute_dtype, is_complex, is_inexact, promote, real_dtype
from gradflow.tree._paths import is_none, path_string, show


def dtype_of(x: Any) -> DType:
    """The dtype of a leaf: an array, a tracer, a `jax.ShapeDtypeStruct` or a Python number."""
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return x.dtype
    # NumPy's 64 bits are 32 bits in jax unless these are enabled.
    return np.dtype(jax.dtypes.canonicalize_dtype(np.result_type(x)))


def is_number(dtype: DType) -> bool:
    """Whether `dtype` is one of booleans, integers or inexact numbers, not of PRNG keys."""
    return bool(jnp.issubdtype(dtype, np.number)) or dtype == np.bool_


def common_dtype(dtypes: Iterable[DType]) -> DType:
    """The dtype in which leaves meet; an inexact one wins over integers. float32 if there is none."""
    found = set(dtypes)
    floats = [dtype for dtype in found if is_inexact(dtype)]
    if floats:
        return functools.reduce(promote, sorted(floats, key=str))
    if not found:
        return np.dtype(np.float32)
    whole = functools.reduce(np.promote_types, sorted(found, key=str))
    return np.dtype(jax.dtypes.canonicalize_dtype(whole))


def accumulator(leaves: Iterable[Any], real: bool = False) -> DType:
    """The dtype in which leaves are summed: at least 32 bits; `real` for absolute values."""
    dtype = common_dtype(x.dtype for x in leaves)
    if is_inexact(dtype):
        return real_dtype(compute_dtype(dtype)) if real else compute_dtype(dtype)
    return np.promote_types(dtype, np.uint32 if dtype.kind == "u" else np.int32)


def arrays_of(tree: Any, real: bool = False) -> list[jax.Array]:
    """The leaves, checked: all numbers (all real if `real`), or a TypeError with the path of one."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    for path, x in pairs:
        if not is_number(x.dtype) or (real and is_complex(x.dtype)):
            expected = "real numbers" if real else "numbers"
            raise TypeError(f"leaf {show(path_string(path))}: expected {expected}, got {x.dtype}")
    return [x for _, x in pairs]


def path_at(tree: Any, index: int) -> str:
    """The path of the leaf with this number, counting None leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)
    return path_string(pairs[index][0])


def refuse(tree: Any, index: int, expected: str, got: Any) -> NoReturn:
    """Raise TypeError about the leaf with this number, counting None leaves."""
    raise TypeError(f"leaf {show(path_at(tree, index))}: expected {expected}, got {got}")


def check_scalar(x: Any, name: str) -> None:
    """Raise ValueError unless `x` is one number, by itself or in an array of shape ()."""
    if x is None or np.shape(x) != ():
        got = "None" if x is None else f"shape {np.shape(x)}"
        raise ValueError(f"{name}: expected a scalar, got {got}")


def call(f: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Call a jitted function; when jax refuses an argument, say which leaf is no array."""
    try:
        return f(*trees, **options)
    except TypeError:
        # Looked for only now, so that an ordinary call does not pay for it.
        for tree in trees:
            _refuse_strangers(tree)
        raise


_ARRAYS = jax.Array | np.ndarray | np.generic | bool | int | float | complex


def _refuse_strangers(tree: Any) -> None:
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(x, _ARRAYS):
            where = show(path_string(path))
            raise TypeError(f"leaf {where}: expected an array, got {type(x).__name__}") from None
