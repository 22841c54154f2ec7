"""Muown: Muon for the directions of a matrix's neurons, Adam for their norms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._calls._context import context
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, Iterations, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import bounded, larger_size, safe_sqrt, size_root
from gradflow._rules._roles import Mean
from gradflow._rules._state import at_least_float32, first_moment, increment, zero_scalar
from gradflow._rules._unit_norm import unit_direction, unit_norm
from gradflow._shardings import whole_on_mesh_of
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.linalg import newton_schulz
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import require_matrices
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix
from gradflow.optimizers._adam import adam_rule, adam_scalars
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._orthogonalize import check_table

_SMALLEST = 1e-12  # the norm of a neuron of zeros


class MuownNeurons(NamedTuple):
    """For each neuron of a matrix its norm, the norm of its direction, and Adam's moments of its norm."""

    gain: Any
    length: Any
    mu: Any
    nu: Any


class MuownState(NamedTuple):
    """Steps taken, the averaged gradients of the directions, and what belongs to each neuron."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    neurons: Any


def muown_scalars(beta: jax.Array, **others: jax.Array) -> Scalars:
    """The decay's complement, and Adam's."""
    return {**adam_scalars(**others), "c": 1 - beta}


def muown_rule(
    g: jax.Array, mu: jax.Array, neurons: MuownNeurons, p: jax.Array, s: Any, *,
    nesterov: bool, by_shape: bool, table: Any, steps: Any, dtype: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Lion et al. 2026, Algorithm 1: p = gain * v / |v|, over the inputs of each output."""
    gain, length, gain_mu, gain_nu = neurons
    unit = unit_direction(p, 0) * jnp.sign(gain)[None]
    g = bounded(g) + (g - g)  # NaN where it is not finite
    of_gain = jnp.sum(g * unit, axis=0)
    newest = s.c * (gain / length)[None] * (g - unit * of_gain[None])
    mu = s.beta * mu + newest
    direction = newton_schulz(s.beta * mu + newest if nesterov else mu, table, steps, dtype=dtype)
    inputs, outputs = p.shape
    scale = size_root(larger_size(1, outputs / inputs) if by_shape else larger_size(inputs, outputs))
    v = unit * length[None] - s.learning_rate * (s.rms * scale) * direction
    length = jnp.maximum(safe_sqrt(jnp.sum(v * v, axis=0)), _SMALLEST)
    step, gain_mu, gain_nu = adam_rule(of_gain, gain_mu, gain_nu, s)
    gain = gain - s.learning_rate * step
    u = gain[None] * (v / length[None]) - p - s.learning_rate * s.weight_decay * p
    size, power = unit_norm(p + u, 0)
    gain = _away_from_zero(jnp.copysign((size / power)[0], gain))
    return u, mu, MuownNeurons(gain, length, gain_mu, gain_nu)


def _away_from_zero(gain: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(gain) < _SMALLEST, _SMALLEST, gain)


def norms_rule(p: jax.Array, neurons: MuownNeurons, s: Any) -> tuple[Any, ...]:
    """What `init` knows of the neurons: their norms."""
    largest = jnp.max(jnp.abs(p), initial=0)
    scaled = p / jnp.where(largest > 0, largest, 1)
    norm = jnp.maximum(largest * safe_sqrt(jnp.sum(scaled * scaled, axis=0)), _SMALLEST)
    return p, MuownNeurons(norm, norm, neurons.mu, neurons.nu)


def _zeros(shape: tuple[int, ...], p: Any) -> MuownNeurons:
    zeros = jnp.zeros((shape[1],), at_least_float32(real_dtype(p.dtype)))
    return MuownNeurons(zeros, zeros, zeros, zeros)


@transformation(reports=("learning_rate",), last=True, leaves="real")
def step_by_muown(
    learning_rate: Rate,
    beta: Decay = 0.95,
    b1: Decay = 0.9,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    consistent_rms: NonNegative | None = None,
    *,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    nesterov: bool = True,
    matrices: Any = None,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> Pair:
    """Steps the directions of a matrix's neurons by Muon, and their norms by Adam.

        p = gain * v / |v| for each output, the norm over its inputs
        g_gain = sum(g * v / |v|);   g_v = gain / |v| * (g - v / |v| * g_gain)
        mu = beta * mu + (1 - beta) * g_v
        v = v - learning_rate * scale * newton_schulz(beta * mu + (1 - beta) * g_v)
        gain = gain - learning_rate * adam(g_gain)
        u = gain * v / |v| - p - learning_rate * weight_decay * p
        gain = |p + u|

    Takes the place of `scale_by_learning_rate`. Orthogonal steps let the norms of neurons grow, and with them
    the largest singular value; here nothing but Adam moves the norms.

    Args:
      learning_rate: >= 0.
      beta: decay of the directions' momentum, in [0, 1).
      b1, b2, eps: Adam's, for the norms.
      weight_decay: of `p`, >= 0.
      consistent_rms: None has `scale = sqrt(max(1, outputs / inputs))`; a number r, `r * sqrt(longer side)`,
        0.2 in the paper.
      ns_coeffs: a name in `linalg.NEWTON_SCHULZ_TABLES`.
      ns_steps: the table's length by default.
      nesterov: as in the paper; False takes the factor of `mu`.
      matrices: `Matrix`, `choose_matrices` and the like; by default every leaf must have two axes.
      mu_dtype: dtype of the momentum; the parameters' by default.
      ns_dtype: dtype of the products, such as bfloat16; float32 at least by default.

    Needs `params`. A neuron of zeros begins with the norm 1e-12. Source: Lion et al. 2026, arXiv:2605.10797.
    """
    check_table("step_by_muown", ns_coeffs)
    rule = specialize(
        muown_rule,
        nesterov=nesterov,
        by_shape=consistent_rms is None,
        table=ns_coeffs,
        steps=ns_steps,
        dtype=ns_dtype,
    )

    def init(params: Params) -> OptState:
        axes = require_matrices(matrices, params)
        zeros = init_per_matrix(_zeros, axes, params)
        _, neurons = per_matrix(norms_rule, axes, (params, zeros))
        if context.spread is None:
            # The partitioner would cut the norms, and leave the moments beside them whole until a step.
            neurons = jax.tree.map(lambda x: whole_on_mesh_of(x, jax.tree.leaves(params)[0]), neurons)
        return MuownState(zero_scalar(params), first_moment(params, mu_dtype), neurons)

    def update(updates: Updates, state: MuownState, params: Params) -> tuple[Updates, MuownState]:
        axes = require_matrices(matrices, params)
        check_like("updates", updates, "state", state.mu)
        check_per_matrix(_zeros, axes, updates, neurons=state.neurons)
        report("learning_rate", learning_rate)
        count = increment(state.count)
        u, mu, neurons, *_ = per_matrix(
            rule, axes, (updates, state.mu, state.neurons, params), muown_scalars,
            count=count, learning_rate=learning_rate, beta=beta, b1=b1, b2=b2, eps=eps, eps_root=0.0,
            weight_decay=weight_decay, rms=1.0 if consistent_rms is None else consistent_rms,
        )  # fmt: skip
        return u, MuownState(count, mu, neurons)

    return init, update


@transformation
def muown(
    learning_rate: Rate,
    beta: Decay = 0.95,
    b1: Decay = 0.9,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    consistent_rms: NonNegative | None = None,
    *,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    nesterov: bool = True,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """Muown for hidden matrices, AdamW for all else.

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: of the matrices, >= 0.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is `adamw(learning_rate)`.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the source as in `step_by_muown`.
    """
    inner = step_by_muown(
        learning_rate, beta, b1, b2, eps, weight_decay, consistent_rms,
        ns_coeffs=ns_coeffs, ns_steps=ns_steps, nesterov=nesterov, mu_dtype=mu_dtype, ns_dtype=ns_dtype,
    )  # fmt: skip
    return for_matrices(inner, others, matrices, others_rate=others_rate)
