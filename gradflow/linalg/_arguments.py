"""Argument checks of the matrix functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import Kind, is_number_or_array
from gradflow._dtypes import is_complex, is_inexact
from gradflow._errors import describe


def _is_precision(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) == 2 and all(map(_is_precision, value))
    if isinstance(value, str):
        try:
            jax.lax.Precision(value)
        except ValueError:
            return False
        return True
    kinds = (jax.lax.Precision, jax.lax.DotAlgorithm, jax.lax.DotAlgorithmPreset)
    return value is None or isinstance(value, kinds)


PRECISION = Kind("a jax.lax.Precision or its name", _is_precision)


def array(name: str, argument: str, x: Any, shape: str, complex_too: bool = False) -> jax.Array:
    """`x` as a floating-point array; `shape`, such as `(n, n)`, gives its expected rank."""
    if not is_number_or_array(x):
        raise TypeError(f"{name}: argument '{argument}' must be an array; got {describe(x)}")
    dtype = jnp.result_type(x)
    if not is_inexact(dtype) or (is_complex(dtype) and not complex_too):
        kind = "" if complex_too else "real "
        raise TypeError(f"{name}: argument '{argument}' must be {kind}floating point; got {describe(x)}")
    sides = shape.strip("()").replace(",", " ").split()
    if np.ndim(x) < 2 if "..." in sides else np.ndim(x) != len(sides):
        raise ValueError(f"{name}: argument '{argument}' must have shape {shape}; got {describe(x)}")
    return jnp.asarray(x, dtype=dtype)


def square(name: str, argument: str, x: Any) -> jax.Array:
    matrix = array(name, argument, x, "(n, n)")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name}: argument '{argument}' must have shape (n, n); got {describe(x)}")
    return matrix


def count(name: str, argument: str, n: Any, traced: bool = False, most: int = 2**31 - 1) -> Any:
    """A number of iterations, from 0 to `most`; with `traced`, a jax array passes unchecked."""
    if traced and isinstance(n, jax.Array) and n.ndim == 0 and jnp.issubdtype(n.dtype, jnp.integer):
        return n
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{name}: argument '{argument}' must be an int; got {describe(n)}")
    if n < 0:
        raise ValueError(f"{name}: argument '{argument}' must be >= 0; got {n}")
    if n > most:
        raise ValueError(f"{name}: argument '{argument}' must be <= {most}; got {n}")
    return int(n)


def at_least_zero(name: str, argument: str, x: Any, dtype: Any) -> jax.Array:
    if not is_number_or_array(x) or np.ndim(x) != 0 or is_complex(jnp.result_type(x)):
        raise TypeError(f"{name}: argument '{argument}' must be a real scalar; got {describe(x)}")
    if not isinstance(x, jax.Array) and not x >= 0:
        raise ValueError(f"{name}: argument '{argument}' must be >= 0; got {x}")
    return jnp.asarray(x, dtype=dtype)
