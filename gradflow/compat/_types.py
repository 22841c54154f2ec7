"""Names of types and helpers that libraries import from Optax's private modules."""

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow.compat import _private
from gradflow.linalg import NEWTON_SCHULZ_TABLES
from gradflow.numerics import MultiNormalDiagFromLogScale
from gradflow.optimizers import MuonDimensionNumbers, scale_by_muon
from gradflow.optimizers._adafactor import factored_axes


def canonicalize_dtype(dtype: Any) -> np.dtype | None:
    """A dtype as jax stores it, such as float32 for float64; None stays None."""
    return None if dtype is None else np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def canonicalize_key(key: Any) -> jax.Array:
    """A PRNG key unchanged, and the key of an integer seed."""
    is_seed = isinstance(key, int | np.integer) or (isinstance(key, jax.Array) and key.ndim == 0)
    if is_seed and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        return jax.random.key(key)
    return jnp.asarray(key)


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|^2`, real also for complex numbers."""
    return (x.conj() * x).real


def orthogonalize_via_newton_schulz(
    x: jax.Array,
    ns_coeffs: Any,
    ns_steps: int = 5,
    preconditioning: str = "frobenius",
    eps: Any = 1e-8,
    dimension_numbers: Any = None,
) -> jax.Array:
    """The orthogonal factor of `x` that `scale_by_muon` takes, without an average.

    Its arguments are those of `scale_by_muon`. `gradflow.linalg.newton_schulz` has batches of matrices and
    more tables.
    """
    numbers = None if x.ndim == 2 else dimension_numbers
    tx = scale_by_muon(
        ns_coeffs,
        ns_steps,
        beta=0.0,
        eps=eps,
        preconditioning=preconditioning,
        weight_dimension_numbers=numbers,
    )
    factor, _ = tx.update(x, tx.init(x))
    return factor


def factored_dims(
    shape: tuple[int, ...], factored: bool, min_dim_size_to_factor: int
) -> tuple[int, int] | None:
    """The second longest axis and the longest, which `scale_by_factored_rms` factors; None if it does not."""
    axes = factored_axes(shape, factored, min_dim_size_to_factor)
    return None if axes is None else (axes.second, axes.longest)


def decay_rate_pow(i: Any, exponent: Any = 0.8) -> jax.Array:
    """The decay of `scale_by_factored_rms` after `i` steps, `1 - (i + 1)^-exponent`."""
    return 1 - (jnp.asarray(i, jnp.float32) + 1) ** (-exponent)


@contextlib.contextmanager
def x64_precision(enable_x64_precision: bool = True) -> Iterator[None]:
    """Double precision inside the `with`, or single precision with False."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", enable_x64_precision)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def check_subdtype(array: Any, subdtype: Any) -> None:
    """Raises TypeError unless the dtype of `array` is a kind of `subdtype`, such as `jnp.floating`."""
    dtype = jax.dtypes.result_type(array)
    if not jnp.issubdtype(dtype, subdtype):
        raise TypeError(f"check_subdtype: argument 'array' must be a subdtype of {subdtype}; got {dtype}")


def check_shapes_equal(a: Any, b: Any) -> None:
    """Raises ValueError unless both arrays have one shape."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"check_shapes_equal: shapes must be equal; got {np.shape(a)} and {np.shape(b)}")


def check_rank(array: Any, rank: int) -> None:
    """Raises ValueError unless `array` has `rank` axes."""
    if np.ndim(array) != rank:
        raise ValueError(f"check_rank: argument 'array' must have rank {rank}; got {np.ndim(array)}")


def tile_second_to_last_dim(a: Any) -> jax.Array:
    """The array (..., n, n) whose row `i` is full of `a[..., i]`."""
    a = jnp.asarray(a)
    return jnp.broadcast_to(a[..., None], (*a.shape, a.shape[-1]))


def set_diags(a: jax.Array, new_diags: Any) -> jax.Array:
    """The matrices `a`, (n, d, d), with the rows of `new_diags`, (n, d), as their diagonals."""
    if a.ndim != 3 or a.shape[1] != a.shape[2] or np.shape(new_diags) != a.shape[:2]:
        raise ValueError(
            "set_diags: arguments 'a' and 'new_diags' must have shapes (n, d, d) and (n, d); "
            f"got {a.shape} and {np.shape(new_diags)}"
        )
    index = jnp.arange(a.shape[1])
    return a.at[:, index, index].set(new_diags)


def split_arguments(
    fns: Sequence[Callable[..., Any]], kwargs: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The arguments that each function names, and those that none of them does."""
    named = [inspect.signature(fn).parameters for fn in fns]
    own = [{name: value for name, value in kwargs.items() if name in names} for names in named]
    return own, {name: value for name, value in kwargs.items() if not any(name in names for names in named)}


NAMES: dict[str, Any] = {
    "NO_PARAMS_MSG": "update must be called with the parameters: update(updates, state, params)",
    "PRNGKey": jax.Array,
    "PyTree": Any,
    "Shape": tuple[int, ...],
    "WeightDimNumOrFn": Any,
    "MultiNormalDiagFromLogScale": MultiNormalDiagFromLogScale,
    "_DEFAULT_NS_COEFFS": NEWTON_SCHULZ_TABLES["keller"][0],
    "_decay_rate_pow": decay_rate_pow,
    "_extract_fns_kwargs": split_arguments,
    "_factored_dims": factored_dims,
    "_is_weight_dim_nums": lambda x: isinstance(x, MuonDimensionNumbers),
    "abs_sq": abs_sq,
    "canonicalize_dtype": canonicalize_dtype,
    "canonicalize_key": canonicalize_key,
    "cast_tree": tree.cast,
    "check_rank": check_rank,
    "check_shapes_equal": check_shapes_equal,
    "check_subdtype": check_subdtype,
    "orthogonalize_via_newton_schulz": orthogonalize_via_newton_schulz,
    "set_diags": set_diags,
    "tile_second_to_last_dim": tile_second_to_last_dim,
    "x64_precision": x64_precision,
}

# Names of helpers in the private modules alone.
PRIVATE_NAMES: dict[str, Any] = {**NAMES, **_private.PRIVATE_NAMES}

IMPORTED: dict[str, Any] = {
    "Any": Any,
    "Callable": Callable,
    "Literal": typing.Literal,
    "NamedTuple": typing.NamedTuple,
    "Optional": typing.Optional,
    "Sequence": Sequence,
    "Union": typing.Union,
    "functools": functools,
    "jax": jax,
    "jnp": jnp,
    "lax": jax.lax,
    "np": np,
}
