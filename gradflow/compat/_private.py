"""Helpers that libraries import from Optax's private modules to write rules of their own."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.optimizers import MuonDimensionNumbers
from gradflow.optimizers._lbfgs import _Memory, two_loops

Coefficients = Any  # three numbers, or an array of them


def normalized_axes(x: jax.Array, dim_nums: MuonDimensionNumbers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of `x` that are a matrix's inputs and its outputs, as non-negative integers."""
    inputs, outputs = (
        tuple(int(axis) % x.ndim for axis in np.atleast_1d(np.asarray(axes, int))) for axes in dim_nums
    )
    return inputs, outputs


def matrix_sizes(x: jax.Array, dim_nums: MuonDimensionNumbers) -> tuple[int, int]:
    """How many numbers a matrix of `x` takes and how many it gives."""
    inputs, outputs = normalized_axes(x, dim_nums)
    return math.prod(x.shape[i] for i in inputs), math.prod(x.shape[i] for i in outputs)


def matrix_reshape(
    x: jax.Array, dim_nums: MuonDimensionNumbers
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Functions from an array like `x` to its matrices, (count, inputs, outputs), and back.

    Raises ValueError for fewer than two axes, and where an axis is both an input and an output.
    """
    if x.ndim < 2:
        raise ValueError(f"argument 'x' must have two axes or more; got shape {x.shape}")
    inputs, outputs = normalized_axes(x, dim_nums)
    if set(inputs) & set(outputs):
        raise ValueError(
            f"argument 'dim_nums' must have inputs and outputs that are disjoint; got {dim_nums} for "
            f"shape {x.shape}"
        )
    counted = [i for i in range(x.ndim) if i not in inputs + outputs]
    order = (*counted, *inputs, *outputs)
    apart = tuple(x.shape[i] for i in order)
    back = tuple(order.index(i) for i in range(x.ndim))
    sizes = (math.prod(x.shape[i] for i in counted), *matrix_sizes(x, dim_nums))
    return lambda y: y.transpose(order).reshape(sizes), lambda y: y.reshape(apart).transpose(back)


def quintic(x: jax.Array, coeffs: Coefficients) -> jax.Array:
    """`a X + b (X X^H) X + c (X X^H)^2 X` for `coeffs = (a, b, c)`: one step of a Newton-Schulz iteration."""
    return _quintic(x, x @ x.T.conj(), coeffs)


def _quintic(x: jax.Array, gram: jax.Array, coeffs: Coefficients) -> jax.Array:
    return coeffs[0] * x + (coeffs[1] * gram + coeffs[2] * gram @ gram) @ x


def quintic_at(i: Any, x: jax.Array, coeffs: Coefficients) -> jax.Array:
    """`quintic`, for a loop that passes its index."""
    return quintic(x, coeffs)


def quintic_after_aol(i: Any, x: jax.Array, coeffs: Coefficients) -> jax.Array:
    """`quintic`, at `i == 0` of the rows divided by `sqrt(sum |X X^H|)` (Prach & Lampert 2022)."""
    return jax.lax.cond(i == 0, _after_aol, quintic, x, coeffs)


def quintic_after_schatten(i: Any, x: jax.Array, coeffs: Coefficients) -> jax.Array:
    """`quintic`, at `i == 0` of `X` divided by the root of the Frobenius norm of `X X^H`."""
    return jax.lax.cond(i == 0, _after_schatten, quintic, x, coeffs)


def _after_aol(x: jax.Array, coeffs: Coefficients, eps: Any = 1e-8) -> jax.Array:
    gram = x @ x.T.conj()
    scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.abs(gram), axis=-1), eps))[:, None].astype(x.dtype)
    return _quintic(x * scale, gram * scale * scale.T, coeffs)


def _after_schatten(x: jax.Array, coeffs: Coefficients, eps: Any = 1e-8) -> jax.Array:
    gram = x @ x.T.conj()
    scale = jax.lax.rsqrt(jnp.maximum(jnp.linalg.norm(gram), eps)).astype(x.dtype)
    return _quintic(x * scale, gram * scale * scale, coeffs)


def inverse_hessian_product(
    updates: Any,
    diff_params_memory: Any,
    diff_updates_memory: Any,
    weights_memory: Any,
    identity_scale: Any,
    memory_idx: Any,
) -> Any:
    """The two-loop recursion of L-BFGS (Nocedal & Wright, algorithm 7.4) over memories of a chain's own.

    `memory_idx` is the slot of the oldest pair; the inverse Hessian starts as `identity_scale` times the
    identity.
    """
    leaves, structure = jax.tree.flatten(updates)
    weights = jnp.asarray(weights_memory)
    kind = jnp.promote_types(weights.dtype, jnp.float32)
    memory = _Memory(
        jax.tree.leaves(diff_params_memory),
        jax.tree.leaves(diff_updates_memory),
        weights.astype(kind),
        (jnp.asarray(memory_idx, jnp.int32) - 1) % weights.size,
    )
    found = two_loops(leaves, memory, jnp.asarray(identity_scale, kind), kind)
    made = [new.astype(old.dtype) for new, old in zip(found, leaves, strict=True)]
    return jax.tree.unflatten(structure, made)


def magicbox(x: jax.Array) -> jax.Array:
    """1, with the derivative of `x` (Foerster et al. 2018)."""
    return jnp.exp(x - jax.lax.stop_gradient(x))


def convert_floats(x: Any, dtype: Any) -> Any:
    """A float or an array of a weak floating type in `dtype`; everything else unchanged."""
    if isinstance(x, jax.Array) and not getattr(x, "weak_type", False):
        return x
    kind = x.dtype if hasattr(x, "dtype") else type(x)
    return jnp.asarray(x, dtype) if jnp.issubdtype(kind, np.floating) else x


@dataclasses.dataclass
class UpdateResult:
    """The update of a leaf and its averages, as one leaf of a tree."""

    update: Any
    v_row: Any
    v_col: Any
    v: Any


PRIVATE_NAMES: dict[str, Any] = {
    "_UpdateResult": UpdateResult,
    "_aol_first_newton_schulz_iteration": _after_aol,
    "_aol_ns_iterator": quintic_after_aol,
    "_base_newton_schulz_iteration": quintic,
    "_base_ns_iterator": quintic_at,
    "_compute_muon_reshape": matrix_reshape,
    "_convert_floats": convert_floats,
    "_get_shape_products": matrix_sizes,
    "_magicbox": magicbox,
    "_newton_schulz_iterator": quintic,
    "_normalize_axes": normalized_axes,
    "_precondition_by_lbfgs": inverse_hessian_product,
    "_schatten_first_newton_schulz_iteration": _after_schatten,
    "_schatten_ns_iterator": quintic_after_schatten,
}
