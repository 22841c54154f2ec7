"""NorMuon: Muon whose neurons take steps of one size."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, Iterations, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import abs_sq, bounded, bounded_square, safe_sqrt
from gradflow._rules._state import at_least_float32
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._kronecker import to_unit
from gradflow.optimizers._muon import scale_by_muon, scale_by_shape
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate

Axis = Literal["outputs", "longer"]


class NeuronNormState(NamedTuple):
    """For each matrix the average square of each of its neurons."""

    nu: Any


def neuron_norm_scalars(b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decay's complement."""
    return {"c2": 1 - b2}


def neuron_norm_rule(x: jax.Array, nu: jax.Array, s: Any, *, axis: Axis) -> tuple[jax.Array, ...]:
    """Li et al. 2025, Algorithm 1: what follows the orthogonal factor."""
    along = _mean_axis(x.shape, axis)
    nu = s.b2 * nu + s.c2 * jnp.mean(bounded_square(x), axis=along)
    sizes = safe_sqrt(nu) + s.eps if axis == "outputs" else safe_sqrt(jnp.maximum(nu, s.eps))
    y, _ = to_unit(bounded(x) / jnp.expand_dims(sizes, along))
    x, size = to_unit(x)
    norm = _norm(y)
    return y * (_norm(x) / jnp.where(norm > 0, norm, 1)) * size, nu


def _norm(x: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(abs_sq(x)))


def _mean_axis(shape: tuple[int, ...], axis: Axis) -> int:
    """The axis of a matrix (in, out) over which its squares are averaged."""
    return 0 if axis == "outputs" or shape[1] >= shape[0] else 1


@transformation
def scale_by_neuron_norm(
    b2: Decay = 0.95, eps: Positive = 1e-10, *, axis: Axis = "outputs", matrices: Any = None
) -> Pair:
    """Divides what each neuron gets by the root of its averaged square, and keeps the matrix's norm.

        nu = b2 * nu + (1 - b2) * mean(g^2 over the inputs)
        y = g / (sqrt(nu) + eps)
        u = y * |g| / |y|

    After an orthogonal factor, as in `normuon`.

    Args:
      b2: decay of the average, in [0, 1).
      eps: added to the root, > 0.
      axis: "outputs" has a number for each output, as its authors do. "longer" averages over the inputs where
        there are no more of them than outputs, else over the outputs, and divides by
        `sqrt(max(nu, eps))`, as the speedruns do, with b2 = 0.9.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.

    Source: Li et al. 2025, arXiv:2510.05491.
    """
    if axis not in ("outputs", "longer"):
        raise ValueError(
            f"scale_by_neuron_norm: argument 'axis' must be 'outputs' or 'longer'; got {describe(axis)}"
        )
    rule = specialize(neuron_norm_rule, axis=axis)

    def init(params: Params) -> OptState:
        axes = require_matrices(matrices, params)
        return NeuronNormState(init_per_matrix(functools.partial(_zeros, axis), axes, params))

    def update(
        updates: Updates, state: NeuronNormState, params: Params | None = None
    ) -> tuple[Updates, NeuronNormState]:
        axes = require_matrices(matrices, updates if params is None else params)
        check_per_matrix(functools.partial(_zeros, axis), axes, updates, nu=state.nu)
        u, nu = per_matrix(
            rule, axes, (updates, state.nu), neuron_norm_scalars, in_loops=True, b2=b2, eps=eps
        )
        return u, NeuronNormState(nu)

    return init, update


def _zeros(axis: Axis, shape: tuple[int, ...], p: Any) -> jax.Array:
    return jnp.zeros((shape[1 - _mean_axis(shape, axis)],), at_least_float32(real_dtype(p.dtype)))


@transformation
def normuon(
    learning_rate: Rate,
    ns_coeffs: Any = "keller",
    ns_steps: Iterations = 5,
    beta: Decay = 0.95,
    b2: Decay = 0.95,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    axis: Axis = "outputs",
    nesterov: bool = True,
    consistent_rms: NonNegative | None = None,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """NorMuon for hidden matrices, AdamW for all else.

        m = scale_by_shape(scale_by_neuron_norm(scale_by_muon(g)))
        u = -learning_rate * (m + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay matrices.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is `adamw(learning_rate)`.
      others_rate: a factor of the updates of `others`, >= 0.

    The others as in `scale_by_muon`, `scale_by_neuron_norm` and `scale_by_shape`. Source: Li et al. 2025,
    arXiv:2510.05491.
    """
    inner = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, nesterov=nesterov, ns_dtype=ns_dtype),
        scale_by_neuron_norm(b2, axis=axis),
        scale_by_shape(consistent_rms=consistent_rms),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return for_matrices(inner, others, matrices, others_rate=others_rate)
