"""The dtypes in which numbers are stored, computed and returned."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DType = np.dtype


def is_inexact(dtype: DType) -> bool:
    """Whether `dtype` is a real or complex floating-point type, 8-bit and bfloat16 ones included."""
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def is_complex(dtype: DType) -> bool:
    """Whether `dtype` is a complex floating-point type."""
    return dtype.kind == "c"


@functools.cache
def compute_dtype(dtype: DType) -> DType:
    """The dtype of arithmetic on `dtype`: at least 32 bits per real number."""
    if not is_inexact(dtype):
        raise TypeError(f"gradflow: arithmetic needs a floating-point or complex dtype; got {dtype}")
    if is_complex(dtype) or dtype == np.float64:
        return dtype
    return np.dtype(np.float32)


@functools.cache
def real_dtype(dtype: DType) -> DType:
    """The dtype of the absolute value of `dtype`: complex64 gives float32."""
    return np.dtype(np.zeros((), dtype).real.dtype) if is_complex(dtype) else dtype


@functools.cache
def working_float(dtype: DType) -> DType:
    """The real dtype in which the scalars that multiply leaves of `dtype` are computed."""
    return real_dtype(compute_dtype(dtype))


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """The smallest inexact dtype that holds the values of both inexact dtypes.

    jax's own promotion raises under `jax_numpy_dtype_promotion='strict'`, which callers may use.
    """
    if a == b:
        return a
    if is_complex(a) or is_complex(b):
        wide = np.float64 in (real_dtype(a), real_dtype(b))
        return np.dtype(np.complex128 if wide else np.complex64)
    if a.itemsize == b.itemsize:
        # bfloat16 with float16, or two 8-bit formats: neither can hold all values of the other.
        return np.dtype(np.float32) if a.itemsize > 1 else np.dtype(jnp.bfloat16)
    return a if a.itemsize > b.itemsize else b


def in_dtype_of(x: jax.Array, like: Any) -> jax.Array:
    """`x` in the dtype of `like`; finite numbers beyond a narrow range become its largest, not infinity."""
    if x.dtype == like.dtype:
        return x
    x = x.real if is_complex(x.dtype) and not is_complex(like.dtype) else x
    y = x.astype(like.dtype)
    if is_inexact(like.dtype) and is_inexact(x.dtype) and jnp.finfo(like.dtype).maxexp < 100:
        # An average in float16 that is infinite once stays so. A limit in bfloat16 would be beyond float16.
        limit = np.asarray(jnp.finfo(like.dtype).max, like.dtype)
        y = jnp.where(jnp.isfinite(x) & ~jnp.isfinite(y), jnp.where(x > 0, limit, -limit), y)
    return y
