"""Names of types and helpers that libraries import from Optax's private modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow.optimizers import scale_by_muon
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


NAMES: dict[str, Any] = {
    "NO_PARAMS_MSG": "update must be called with the parameters: update(updates, state, params)",
    "PRNGKey": jax.Array,
    "PyTree": Any,
    "Shape": tuple[int, ...],
    "WeightDimNumOrFn": Any,
    "_decay_rate_pow": decay_rate_pow,
    "_factored_dims": factored_dims,
    "abs_sq": abs_sq,
    "canonicalize_dtype": canonicalize_dtype,
    "canonicalize_key": canonicalize_key,
    "cast_tree": tree.cast,
    "orthogonalize_via_newton_schulz": orthogonalize_via_newton_schulz,
}
